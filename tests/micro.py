"""The micro study (tests/data/micro.yaml): a folder to run it in, and how to run it. And a lean one
of it, whose jobs can be run one by one."""

import lzma
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "tests/data/micro.yaml"
BOOKS = ("macbeth", "the-tempest", "emma", "hamlet")


def make_place(place: Path) -> None:
    """Give a folder what the study reads: excerpts of books, and what the project carries."""
    (place / "excerpts").mkdir(parents=True)
    for book in BOOKS:
        text = lzma.decompress((ROOT / f"resources/books/{book}.txt.xz").read_bytes()).decode()
        (place / f"excerpts/{book}.txt").write_text(text[:30_000])
    (place / "resources").symlink_to(ROOT / "resources")


def configuration() -> dict:
    """The configuration, to be changed."""
    return yaml.safe_load(CONFIG.read_text())


def snakemake(place: Path, config: Path, *arguments: str) -> list[str]:
    """The command that runs Snakemake in a folder."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    # --configfile takes every word up to the next option.
    return [*command, "--configfile", str(config), "--directory", str(place), *arguments]


def lean() -> dict:
    """The micro study with one of each kind of job, or of few."""
    config = configuration()
    micro = config["models"]["micro"]
    micro["tunings"] = {"longrope-256": micro["tunings"]["longrope-256"]}
    del micro["extension"]["search"]["1k"]
    del micro["variants"]
    tales, passkey = (micro["evaluation"][name] for name in ("tales", "passkey"))
    tales["windows"], passkey["prompts"] = {128: 2, 256: 2}, {256: 2}
    tales["methods"] = {"base": ["none", "search"], "longrope-256": ["extended"]}
    tales["shown_in"] = ["table06", "figure1", "summary", "searches"]
    passkey["methods"] = {"base": ["search"]}
    micro["evaluation"] = {"tales": tales, "passkey": passkey}
    return config


def commands(place: Path) -> list[list[str]]:
    """What the workflow runs, in an order that it may run it in, as words for `longrope`."""
    make_place(place)
    (place / "lean.yaml").write_text(yaml.safe_dump(lean()))
    asked = ("--cores", "1", "--dry-run", "--printshellcmds", "all", "export", "pretrain")
    command = snakemake(place, place / "lean.yaml", *asked)
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    lines = (listed.stdout + listed.stderr).splitlines()
    mark = "Shell command: exec longrope "
    return [shlex.split(line.removeprefix(mark)) for line in lines if line.startswith(mark)]


def stage_of(words: list[str]) -> str:
    """`search` of `--log FILE --processes 1 search ...`."""
    options = iter(words)
    return next(word for word in options if not word.startswith("--") or not next(options))
