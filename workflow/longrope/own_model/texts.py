"""
The user's texts: how long each is, about, and which are kept for choosing and for testing.

Lengths come from the number of characters; the tokenisation checks them exactly before any long
work. The longest works are dealt to test and validation in turn, as windows need whole documents;
everything else is to train on.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import yaml

from longrope.corpus.documents import document_id
from longrope.errors import UserError
from longrope.files import read_text
from longrope.plan.estimate import PER_BIT

SURE = 1.15  # so many times a window's tokens, by this estimate, a document must have
MOST = {"test": 6, "validation": 5}  # documents of a split


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts and what each is used for."""

    files: list[str]  # globs, absolute
    splits: dict[str, list[str]]  # validation, test -> document ids
    lengths: dict[str, int]  # document id -> tokens, about
    join_to: int | None  # documents are joined to so many tokens, as too few are that long
    sure: float = SURE

    def room(self, split: str, window: int) -> int:
        """How many windows that do not overlap a split has."""
        if self.join_to:
            return sum(self.lengths[id_] for id_ in self.splits[split]) // self.join_to
        return sum(int(self.lengths[id_] / self.sure) // window for id_ in self.splits[split])

    def documents(self, split: str, window: int) -> int:
        """How many documents of a split are as long as a window."""
        if self.join_to:
            return self.room(split, window)
        return sum(self.lengths[id_] / self.sure >= window for id_ in self.splits[split])


def find_texts(patterns: Iterable[str], vocabulary: int, window: int) -> Corpus:
    """The files that some globs match, split; UserError if they cannot hold the window."""
    patterns = [str(Path(each).expanduser().absolute()) for each in patterns]
    paths = sorted({path for each in patterns for path in glob(each, recursive=True)})
    if len(paths) < 3:
        raise UserError(
            f"--text {', '.join(patterns)}: matches {len(paths)} files; searching, tuning and"
            " testing take three documents or more"
        )
    lengths: dict[str, int] = {}
    for path in paths:
        if (id_ := document_id(path)) in lengths:
            raise UserError(f"--text: two files are called {id_}; rename one")
        lengths[id_] = _tokens(Path(path), vocabulary)
    return split_texts(patterns, lengths, window)


def split_texts(
    patterns: list[str],
    lengths: dict[str, int],
    window: int,
    splits: dict | None = None,
    sure: float = SURE,
) -> Corpus:
    """Deal the longest documents to test and validation, or take `splits` as they are."""
    ranked = sorted(lengths, key=lambda id_: (-lengths[id_], id_))
    long = [id_ for id_ in ranked if lengths[id_] / sure >= window]
    if splits is None:
        each = max(1, len(ranked) // 4)  # half of all documents is left to train on, at least
        pool = long if len(long) >= 2 else ranked
        taken = pool[: 2 * each]
        splits = {
            "test": taken[::2][: MOST["test"]],
            "validation": taken[1::2][: MOST["validation"]],
        }
    corpus = Corpus(patterns, splits, lengths, None, sure)
    if all(corpus.documents(split, window) for split in ("test", "validation")):
        return corpus
    joined = Corpus(patterns, splits, lengths, window, sure)
    lacking = [split for split in ("test", "validation") if not joined.room(split, window)]
    if lacking:
        raise UserError(
            f"the texts for {' and '.join(lacking)} have fewer than {window:,} tokens in all"
            f" (the longest of all documents, most of which are trained on, has about"
            f" {max(lengths.values()):,}): add longer ones with --text,"
            " or extend to a shorter window"
        )
    return joined


def carried(project: Path, vocabulary: int, window: int) -> Corpus:
    """The books that the project carries, in the split of its default study."""
    folder = project / "resources/books"
    paths = sorted(folder.glob("*.txt.xz"))
    if not paths:
        raise UserError(f"{folder}: no books there; name your own texts with --text")
    lengths = {document_id(path): _tokens(path, vocabulary) for path in paths}
    default = yaml.safe_load((project / "config/config.yaml").read_text(encoding="utf-8"))
    splits = default["corpora"]["books"]["splits"]
    # Their plays have a quarter more tokens than their characters say.
    return split_texts([f"{folder}/*.txt.xz"], lengths, window, splits, sure=1.0)


def _tokens(path: Path, vocabulary: int) -> int:
    """About how many tokens of such a vocabulary a file has, as the plan counts them."""
    return round(len(read_text(path)) / (PER_BIT * math.log2(vocabulary)))
