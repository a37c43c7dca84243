"""
What the pages say of the repository holds: links, pictures and paths lead somewhere, commands are
accepted, and those that take seconds are run (docs/decisions.md says which, and why no others).
"""

import re
import shlex
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import longrope
from longrope.catalogue import entry
from longrope.cli import build_parser, main
from longrope.config import FolderModel
from longrope.extended import write_extended
from longrope.models.import_model import import_model

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "config/*.md", "envs/*.md", "results/README.md",
                    "resources/**/*.md", "workflow/longrope/**/*.md")
    for path in ROOT.glob(pattern)
)  # fmt: skip
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
PACKAGE = ROOT / "workflow" / "longrope"
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()}
PLACES = (ROOT, PACKAGE, *(path for path in PACKAGE.glob("*/") if path.is_dir()), ROOT / "config")
# What runs make, and what a run on a GPU will (docs/gpu.md).
MADE = ("results/", "logs/", "models/", "build/", "docs/results/one-card-windows")
PLACEHOLDER = re.compile(r"[A-Z]{4,}|NAME|…|\{|<|\*")  # results/MODEL, {window}, path/*


def without_fences(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


@cache
def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", without_fences(page.read_text("utf-8")), re.M)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", each).lower() for each in headings)
    return {re.sub(r"[^\w\- ]", "", each).strip().replace(" ", "-") for each in plain}


@EVERY_PAGE
def test_every_link_and_picture_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", without_fences(page.read_text("utf-8")))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{link}: no such file (link to files: a folder is no page)"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


@EVERY_PAGE
def test_every_path_in_backticks_exists(page):
    quoted = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", without_fences(page.read_text("utf-8")))
    for path in filter(is_path, quoted):
        found = any((place / path).exists() for place in (page.parent, *PLACES))
        assert found, f"`{path}`: no such file"


def is_path(quoted: str) -> bool:
    """Whether it looks like one of the repository: known first folder, or ending of a source."""
    if PLACEHOLDER.search(quoted) or " " in quoted or quoted.startswith(MADE):
        return False
    return quoted.split("/")[0] in FOLDERS or quoted.endswith((".py", ".smk"))


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """What the bash blocks of a page, and its indented ones, tell this program."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S)
    blocks += re.findall(r"(?:^    \S.*\n(?:^    .*\n)*)", without_fences(text), re.M)
    for block in blocks:
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            for part in re.split(r"&&|\|", line):
                words = words_of(part.strip())
                if words[:1] == [program]:
                    yield words[1:]


def words_of(line: str) -> list[str]:
    """Those of one command, without comment, settings of the environment and redirection."""
    line = re.sub(r"\s(#|>|  +[a-zA-Z0-9(]).*", "", line)
    if line.count("'") % 2 or line.count('"') % 2:
        return []
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    return words


@cache
def package_parser():
    """Ours."""
    return build_parser()


@EVERY_PAGE
def test_the_package_accepts_the_commands_of_a_page(page, capsys):
    for words in commands(page, "longrope"):
        if "..." in words or "…" in words or "--help" in words:
            continue
        try:
            package_parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"longrope {shlex.join(words)}: {capsys.readouterr().err}")


@EVERY_PAGE
def test_every_stage_and_option_in_backticks_is_one_of_the_package(page):
    [stages] = [each.choices for each in package_parser()._actions if each.dest == "==SUPPRESS=="]
    for quoted in re.findall(r"`longrope ([a-z][^`]*)`", page.read_text("utf-8")):
        stage, *words = quoted.split()
        assert stage in stages, f"`longrope {quoted}`: no such stage"
        options = {*stages[stage]._option_string_actions, *package_parser()._option_string_actions}
        unknown = {word for word in words if word.startswith("--")} - options
        assert not unknown, f"`longrope {quoted}`: no such option"


@cache
def snakemake_parser():
    """Snakemake's, with its plugins; asked for once, as it takes a second."""
    from snakemake.cli import get_argument_parser

    return get_argument_parser()


@EVERY_PAGE
def test_snakemake_accepts_the_commands_of_a_page(page, capsys):
    for words in commands(page, "snakemake"):
        if "kubernetes" in words:  # a plugin that the tests do not install
            continue
        try:
            options = snakemake_parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"snakemake {shlex.join(words)}: {capsys.readouterr().err}")
        for path in options.configfile or ():
            named = str(path).startswith("config/") and not PLACEHOLDER.search(str(path))
            assert not named or (ROOT / path).is_file(), f"{path}: no such configuration"
        for profile in options.profile or ():
            known = not profile.startswith("profiles/") or (ROOT / profile).is_dir()
            assert known, f"{profile}: no such profile"


def test_commands_are_found_at_all():
    found = [words for page in PAGES for words in commands(page, "longrope")]
    assert len(found) > 20
    assert sum(len(list(commands(page, "snakemake"))) for page in PAGES) > 10


# --- what is run ------------------------------------------------------------------------------

TINY = ROOT / "resources/models/tiny"
RUN = ("check", "factors", "init", "plan", "schema")
CHEAP = sorted({tuple(words) for page in PAGES for words in commands(page, "longrope")
                if words[0] in RUN and "--help" not in words})  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder with the parts of a checkout that commands of a page name."""
    for part in ("config", "resources"):
        (tmp_path / part).symlink_to(ROOT / part)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", CHEAP, ids=shlex.join)
def test_a_command_of_a_page_that_takes_seconds_runs(words, place):
    words = [str(place / "made") if each.startswith("/tmp/") else each for each in words]
    if words[0] in ("check", "init"):
        words[1] = str(TINY)  # for path/to/checkpoint, or one that a page has fetched
    assert main(words) == 0
    if "--out" in words:
        assert Path(words[words.index("--out") + 1]).exists()


def test_every_kind_of_command_that_takes_seconds_is_found():
    assert {words[0] for words in CHEAP} == {*RUN} and len(CHEAP) > 10


@pytest.mark.parametrize("target", ["all", "study"])
def test_the_hours_of_the_papers_study_are_those_of_the_plan(target, place, capsys):
    words = ["plan", "--config", "config/paper.yaml", "--gpu", "a100-80gb", "--target", target]
    assert main(words) == 0
    hours = re.search(r"In all .*? ([\d,]+) GPU-hours", capsys.readouterr().out)[1]
    for page in ("faq", "plan"):
        assert hours in (ROOT / f"docs/{page}.md").read_text("utf-8"), page


def python_blocks(page: Path) -> list[str]:
    """What a page shows as Python."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    return [textwrap.dedent(each) for each in blocks]


@EVERY_PAGE
def test_python_of_a_page_is_python_and_names_what_the_package_has(page):
    for block in python_blocks(page):
        compile(block, page.name, "exec")
        used = set(re.findall(r"\blongrope\.(\w+)\(", block))
        assert used <= set(longrope.__all__), used


def test_the_python_of_the_readme_runs(place, capsys):
    [block] = python_blocks(ROOT / "README.md")
    folder = Path(re.search(r'longrope\.load\("(results/[^"]*)"\)', block)[1])
    import_model(FolderModel(kind="folder", path=str(TINY)), "tiny", 256, folder / "model")
    write_extended(folder / "extended", entry("tiny-base").tiers, folder / "model")
    exec(compile(block, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.strip().startswith("It is a truth universally acknowledged")
