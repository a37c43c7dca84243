"""The text that a model is searched, tuned and evaluated on."""

import hashlib
from typing import Annotated, Literal

from pydantic import Field, model_validator

from longrope.config.base import Count, HubName, Place, Settings, Share, Window


class HubSource(Settings):
    """A data set of the Hugging Face hub; pin `revision` in anything that is to be repeated."""

    kind: Literal["hub"]
    name: HubName
    """Such as `emozilla/pg19`."""
    subset: str | None = None
    """Its configuration, where it has several."""
    revision: str | None = None
    """Commit, tag or branch."""
    text_column: str = "text"
    """Where a row has its text."""
    id_column: str | None = None
    """Where a row has its id; without it a document is called SPLIT-NUMBER."""


class TextSource(Settings):
    """Text files, one document each, named after the file; may be compressed (.gz, .xz, .bz2)."""

    kind: Literal["text"]
    files: list[Place] = Field(min_length=1)
    """Paths or globs, from the working directory."""


class TableSource(Settings):
    """JSON lines or parquet files, one document a row."""

    kind: Literal["jsonl", "parquet"]
    files: list[Place] = Field(min_length=1)
    """Paths or globs, from the working directory."""
    text_column: str = "text"
    """Where a row has its text."""
    id_column: str | None = None
    """Where a row has its id; without it a document is called train-NUMBER."""


class PackageSource(Settings):
    """Text files that an installed Python package ships, one document each."""

    kind: Literal["package"]
    package: Place
    """Its name for pip."""
    files: list[Place] = Field(min_length=1)
    """Globs within the package."""


class Splits(Settings):
    """Which documents are train, validation and test; none is in two of them."""

    validation: list[str] | Share | str | None = None
    """What searches read: document ids, a share of all documents (drawn by id), or the name of the
    source's own split."""
    test: list[str] | Share | str | None = None
    """What evaluations read, given in the same way."""
    train: str | None = None
    """What tunings read: the source's own split. Without it all other documents."""
    limits: dict[Literal["train", "validation", "test"], Count] = {}
    """At most so many documents of a split, such as `{train: 1000, test: 100}`."""

    @model_validator(mode="after")
    def _check(self):
        kinds = {type(value) for value in (self.validation, self.test) if value is not None}
        if len(kinds) > 1:
            raise ValueError("validation and test are given the same way: ids, shares or names")
        if self.train is not None and kinds and kinds != {str}:
            raise ValueError("train names a split of the source, so validation and test must too")
        if kinds == {list} and (both := set(self.validation or []) & set(self.test or [])):
            raise ValueError(f"in validation and in test: {', '.join(sorted(both))}")
        if kinds == {float} and (self.validation or 0) + (self.test or 0) >= 1:
            raise ValueError("the shares of validation and test leave nothing to train on")
        return self

    @property
    def named(self) -> dict[str, str]:
        """Split -> the source's own split, where the source has them."""
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: name for split, name in given.items() if isinstance(name, str)}

    @property
    def listed(self) -> set[str]:
        """Every document id that is named."""
        lists = [value for value in (self.validation, self.test) if isinstance(value, list)]
        return {id_ for ids in lists for id_ in ids}

    def used(self, split: str) -> bool:
        """Whether any document can be in a split."""
        if self.named:
            return split in self.named
        return split == "train" or bool(getattr(self, split))

    def of(self, id_: str) -> Literal["train", "validation", "test"]:
        """The split of a document, by its id."""
        if isinstance(self.validation, list) or isinstance(self.test, list):
            if id_ in (self.validation or []):
                return "validation"
            return "test" if id_ in (self.test or []) else "train"
        draw = int(hashlib.sha256(id_.encode()).hexdigest()[:8], 16) / 2**32
        validation, test = self.validation or 0.0, self.test or 0.0
        if draw < validation:
            return "validation"
        return "test" if draw < validation + test else "train"


class CorpusSettings(Settings):
    """Text for searching, tuning and evaluating."""

    source: Annotated[
        HubSource | TextSource | TableSource | PackageSource, Field(discriminator="kind")
    ]
    """Where the text comes from."""
    splits: Splits
    """Which documents are for what; a document is in one split only."""
    join_to: Window | None = None
    """Join documents until they have so many tokens, for windows longer than any document. The
    manifest and every record then say *joined*: a perplexity over a joint is not that of one long
    text."""

    @model_validator(mode="after")
    def _check(self):
        if self.splits.named and self.source.kind != "hub":
            raise ValueError(
                f"a {self.source.kind} source has no splits of its own: give splits document ids"
                " or shares"
            )
        return self


class Need(Settings):
    """What a stage needs of a split; checked when the corpus is tokenised."""

    split: Literal["train", "validation", "test"]
    documents: int
    tokens: int  # the least length of each
    reason: str
    windows: int = 1  # so many of that length must fit in all of them, without overlap


class TokenizeSettings(Settings):
    """Stage slice of `tokenize_corpus`."""

    corpus: CorpusSettings
    needs: list[Need] = []
