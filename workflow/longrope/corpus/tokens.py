"""
Documents as a model's tokens: one folder a split, of `tokens.bin` and `manifest.json`.

Long documents stay documents: where short ones are joined to reach a length, the manifest names
the parts. The stages that read tokens need numpy alone.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longrope.config.corpus import Need, TokenizeSettings
from longrope.corpus.documents import SPLITS, Document, read_documents
from longrope.errors import UserError
from longrope.files import fingerprint, read_json, replacing, sha256_of, write_checked

SCHEMA = 1  # of manifest.json


@dataclass(frozen=True, slots=True)
class TokenDocument:
    """One document of a split, as tokens on disk."""

    id: str
    tokens: np.ndarray  # 1-D, memory-mapped; begins with the tokenizer's BOS, if it has one
    joined: bool  # whether it is a concatenation


# --- from documents to tokens ---------------------------------------------------------------


def tokenize_corpus(
    settings: TokenizeSettings, tokenizer, folders: dict[str, Path], say=print
) -> None:
    """Tokenise a corpus into one folder a split: `tokens.bin` and `manifest.json`.

    Checks what the later stages need at the end: UserError if a split has too few documents of
    the length that a window takes.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    common = {
        "schema": SCHEMA,
        "source": settings.corpus.source.model_dump(exclude_none=True),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "dtype": dtype.name,
    }
    with contextlib.ExitStack() as stack:
        writers = {}
        for split in SPLITS:
            draft = stack.enter_context(replacing(folders[split]))
            writers[split] = _SplitWriter(draft, dtype, settings.corpus.join_to)
        for document in read_documents(settings.corpus):
            ids = tokenizer.encode(document.text, add_special_tokens=False)
            writers[document.split].add(document, np.array(bos + ids, dtype=dtype))
        for split, writer in writers.items():
            manifest = writer.finish({**common, "split": split})
            say(f"{split}: {len(manifest['documents'])} documents, {manifest['tokens']:,} tokens")
            _check_needs(split, manifest, settings.needs)


class _SplitWriter:
    """Appends documents to one split's tokens, and joins short ones if asked to."""

    def __init__(self, folder: Path, dtype: np.dtype, join_to: int | None) -> None:
        self.folder, self.dtype, self.join_to = folder, dtype, join_to
        self.records: list[dict] = []
        self.offset = 0
        self.pending: list[tuple[Document, np.ndarray]] = []
        folder.mkdir()
        self.file = (folder / "tokens.bin").open("wb")

    def add(self, document: Document, tokens: np.ndarray) -> None:
        self.pending.append((document, tokens))
        if not self.join_to or sum(len(part) for _, part in self.pending) >= self.join_to:
            self._write_pending()

    def _write_pending(self) -> None:
        documents = [document for document, _ in self.pending]
        tokens = np.concatenate([part for _, part in self.pending])
        self.file.write(tokens.astype(self.dtype).tobytes())
        text = "".join(document.text for document in documents)
        record = {
            "id": "+".join(document.id for document in documents[:3])
            + (f"+{len(documents) - 3} more" if len(documents) > 3 else ""),
            "offset": self.offset,
            "tokens": len(tokens),
            "characters": len(text),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        if len(documents) > 1:
            record["joined_from"] = [document.id for document in documents]
        self.records.append(record)
        self.offset += len(tokens)
        self.pending = []

    def finish(self, manifest: dict) -> dict:
        if self.pending:
            self._write_pending()
        self.file.close()
        manifest |= {
            "sha256": sha256_of(self.folder / "tokens.bin"),
            "tokens": self.offset,
            "documents": self.records,
        }
        write_checked(self.folder / "manifest.json", manifest)
        return manifest


def tokenizer_fingerprint(tokenizer) -> str:
    """A hash of how a tokenizer maps text to tokens."""
    probe = "The pass key is 12345.\n\tNaïve café? 'Tis §7! " + "".join(map(chr, range(32, 127)))
    vocabulary = sorted(tokenizer.get_vocab().items())
    text = repr((vocabulary, tokenizer.encode(probe), tokenizer.bos_token_id))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_needs(split: str, manifest: dict, needs: list[Need]) -> None:
    lengths = sorted((record["tokens"] for record in manifest["documents"]), reverse=True)
    for need in needs:
        if need.split != split:
            continue
        enough = sum(length >= need.tokens for length in lengths)
        if enough < need.documents:
            raise UserError(
                f"corpus: {need.reason} needs {need.documents} {split} documents of at least"
                f" {need.tokens:,} tokens, the corpus has {enough} (longest:"
                f" {', '.join(f'{length:,}' for length in lengths[:3]) or 'none'}): add longer"
                f" documents, move some into {split!r}, or set join_to"
            )
        room = sum(length // need.tokens for length in lengths)
        if room < need.windows:
            raise UserError(
                f"corpus: {need.reason} wants {need.windows} windows of {split} documents that do"
                f" not overlap, there are {room}: ask for fewer, or add {split} documents"
            )


# --- reading tokens back --------------------------------------------------------------------


def _read_manifest(folder: Path, again: str) -> dict:
    """The manifest of one split; UserError for one that does not say where its documents are."""
    path = folder / "manifest.json"
    manifest = read_json(path, again)
    if manifest.get("schema") != SCHEMA:
        raise UserError(f"{folder}: tokens of another version; tokenise the corpus again")
    known = {"sha256": str, "tokenizer": str, "dtype": str, "tokens": int, "documents": list}
    wrong = [key for key, kind in known.items() if not isinstance(manifest.get(key), kind)]
    if not wrong and manifest["dtype"] not in ("uint16", "uint32"):
        wrong = ["dtype"]
    end = 0  # documents lie one behind the other
    for record in [] if wrong else manifest["documents"]:
        if not isinstance(record, dict) or record.get("offset") != end:
            wrong = ["documents"]
            break
        if not (isinstance(record.get("id"), str) and isinstance(record.get("tokens"), int)):
            wrong = ["documents"]
            break
        end += record["tokens"]
    if not wrong and end != manifest["tokens"]:
        wrong = ["documents"]
    if wrong:
        raise UserError(
            f"{path}: damaged: {', '.join(wrong)} is not what tokenising writes; {again}"
        )
    return manifest


class TokenSplit:
    """One split of a tokenised corpus: a sequence of `TokenDocument`, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        again = f"delete {folder} and run the workflow again"
        self.manifest = _read_manifest(self.folder, again)
        # Of the tokens and of where documents begin: what any result on this split depends on.
        self.sha256: str = fingerprint([self.manifest["sha256"], self.manifest["documents"]])
        path = self.folder / "tokens.bin"
        dtype = np.dtype(self.manifest["dtype"])
        if not path.exists() or path.stat().st_size != self.manifest["tokens"] * dtype.itemsize:
            raise UserError(f"{path}: missing or cut short; {again}")
        if sha256_of(path) != self.manifest["sha256"]:
            raise UserError(f"{path}: damaged, its sha256 is another; {again}")
        empty = self.manifest["tokens"] == 0
        self.tokenizer: str = self.manifest["tokenizer"]
        self._tokens = np.empty(0, dtype) if empty else np.memmap(path, dtype, mode="r")

    def check_tokenizer(self, tokenizer) -> None:
        """Raise UserError if these are the tokens of another tokenizer."""
        if tokenizer_fingerprint(tokenizer) != self.tokenizer:
            raise UserError(
                f"{self.folder}: tokens of another tokenizer than this model's; tokenise the"
                " corpus for this model"
            )

    def __iter__(self) -> Iterator[TokenDocument]:
        for record in self.manifest["documents"]:
            end = record["offset"] + record["tokens"]
            tokens = self._tokens[record["offset"] : end]
            yield TokenDocument(record["id"], tokens, "joined_from" in record)

    def at_least(self, tokens: int, documents: int, purpose: str) -> list[TokenDocument]:
        """The first `documents` documents of at least `tokens` tokens; UserError if too few."""
        found = [document for document in self if len(document.tokens) >= tokens][:documents]
        if len(found) < documents:
            raise UserError(
                f"{self.folder}: {purpose} needs {documents} documents of at least {tokens:,}"
                f" tokens, there are {len(found)}"
            )
        return found
