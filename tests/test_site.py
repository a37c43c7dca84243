"""
The site: it builds without a warning, its links to files of the repository work, and a browser
shows every page of it: pictures, links to any heading, scripts, the search.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from browser import browsing, needs_browser

ROOT = Path(__file__).parent.parent
for package in ("furo", "myst_parser", "sphinx"):
    pytest.importorskip(package, reason='pip install -c envs/constraints.txt -e ".[docs]"')


def build(folder: Path, *options: str) -> Path:
    """The site, built as CONTRIBUTING.md says."""
    flags = ("--fail-on-warning", "--keep-going", "--quiet", "--conf-dir", "docs")
    command = [sys.executable, "-m", "sphinx", *flags, *options, ".", str(folder / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site as it is here."""
    return build(tmp_path_factory.mktemp("built"))


def test_the_site_builds_and_every_page_is_reached_from_its_front_page(site):
    assert "url=docs/index.html" in (site / "index.html").read_text()
    front = (site / "docs/index.html").read_text()
    linked = {(site / "docs" / link).resolve() for link in re.findall(r'href="([^"#:]+)"', front)}
    unlinked = {page.relative_to(site).as_posix() for page in {*site.rglob("*.html")} - linked}
    assert unlinked == {"index.html", "docs/index.html"}  # itself, and what leads to it


def test_links_to_files_lead_to_the_repository_where_it_has_an_address(tmp_path):
    site = build(tmp_path, "--define", "repository=https://example.org/longrope/")
    page = (site / "docs/gpu.html").read_text()
    assert 'href="https://example.org/longrope/blob/HEAD/config/one-card-windows.yaml"' in page
    assert not (site / "_downloads").exists()


def test_without_an_address_the_site_carries_the_files(tmp_path):
    site = build(tmp_path, "--define", "repository=")
    carried = re.findall(r'href="\.\./(_downloads/[^"]+)"', (site / "docs/gpu.html").read_text())
    assert carried and all((site / path).is_file() for path in carried)


@needs_browser
def test_a_browser_shows_every_page_whole_and_searches_them(site, tmp_path):
    links, anchors = set(), set()
    with browsing(tmp_path) as page:
        for path in {*site.rglob("*.html")} - {site / "index.html"}:  # which leads elsewhere
            page.open(path.as_uri())
            assert not page.broken_pictures(), path
            links |= {*page.evaluate("[...document.links].map(link => link.href)")}
            found = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
            anchors |= {f"{path}#{each}" for each in found}
        assert not page.errors and not page.fetched
        page.open((site / "search.html").as_uri() + "?q=passkeys")
        page.wait("document.querySelector('#search-results a[href*=\"docs/evaluation\"]')?.href")
    assert len(links) > 300 and len(anchors) > 500
    for link in (unquote(each) for each in links if each.startswith("file:")):
        path, anchor = urldefrag(link.removeprefix("file://"))
        assert Path(path).is_file(), link
        assert not anchor or f"{path}#{anchor}" in anchors, link
