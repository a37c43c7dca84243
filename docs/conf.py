"""
The site: the Markdown pages of the repository, as they are.

    sphinx-build --fail-on-warning --keep-going --conf-dir docs . build/site

The source folder is the repository, so relative links and pictures mean the same here and there,
and one that leads nowhere is a warning. Links to files that are no pages lead to the repository if
pyproject.toml has its address (`[project.urls]`, `Repository`); else the site carries those files.
"""

import re
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FRONT = "docs/index"

project = PROJECT["name"]
version = release = PROJECT["version"]
project_copyright = "The longrope authors"
extensions = ["myst_parser"]
root_doc = FRONT
include_patterns = [
    *("*.md", "docs/**.md", "config/README.md", "envs/README.md", "results/README.md"),
    *("resources/**README.md", "workflow/longrope/**README.md"),
]
exclude_patterns = [".*", "build", "dist", "logs", "mlruns", "models", "results/*/**", "tests"]
myst_heading_anchors = 4  # as GitHub makes them
highlight_language = "none"  # of indented blocks
html_theme = "furo"
html_title = f"longrope {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_use_index = False


def setup(app) -> None:
    """Sphinx calls this."""
    app.add_config_value("repository", PROJECT.get("urls", {}).get("Repository", ""), "env")
    app.connect("source-read", _navigate)
    app.connect("doctree-read", _to_repository, priority=400)  # before files are collected, at 500
    app.connect("build-finished", _redirect)


def _navigate(app, docname: str, source: list[str]) -> None:
    """The navigation is what the front page links to, by its sections."""
    if docname != FRONT:
        return
    for title, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", source[0], re.M | re.S):
        links = re.findall(r"\[([^]]+)\]\(([^)#:]+\.md)\)", section)
        entries = "\n".join(f"{text} </{_path(docname, page)}>" for text, page in links)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```\n"


def _to_repository(app, doctree: nodes.document) -> None:
    """Links to files of the repository that are no pages lead there, where it has an address."""
    if not app.config.repository:
        return
    blob = f"{app.config.repository.rstrip('/')}/blob/HEAD"
    for link in list(doctree.findall(addnodes.download_reference)):
        path = _path(app.env.docname, link["reftarget"])
        target = nodes.reference("", "", *link.children, refuri=f"{blob}/{path}", internal=False)
        link.replace_self(target)


def _path(docname: str, target: str) -> str:
    """A link's target as a path in the repository."""
    return ((ROOT / docname).parent / target).resolve().relative_to(ROOT).as_posix()


def _redirect(app, failure: Exception | None) -> None:
    """The site's folder shows its front page."""
    if failure is None and app.builder.name == "html":
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={FRONT}.html">\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")
