"""The micro study (tests/data/micro.yaml): a folder to run it in, and how to run it."""

import lzma
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
