"""Data: texts, tables, tokens and benchmark questions."""

import gzip
import json
import lzma
from collections.abc import Callable

from bad_cases.kit import DATA, FACTORS, MODEL_FOLDER, PERPLEXITY, Case, Place, options

SPLITS = {"validation": 0.2, "test": 0.2}


def tokenize(at: Place, kind: str, *files: str, splits: dict = SPLITS, **source) -> list:
    at.copy(MODEL_FOLDER)
    source = {"kind": kind, "files": list(files)} | source
    settings = {"corpus": {"source": source, "splits": splits}}
    return ["tokenize", *options(model=MODEL_FOLDER, out="data", settings=settings)]


def _texts(name: str, files: dict[str, str | bytes], says: str, **more) -> Case:
    def make(at: Place) -> list:
        for each, content in files.items():
            at.write(f"texts/{each}", content)
        return tokenize(at, "text", "texts/*", **more)

    return Case("text", name, make, says)


def _lines(name: str, content: str | bytes, says: str, file: str = "a.jsonl", **more) -> Case:
    def make(at: Place) -> list:
        at.write(f"texts/{file}", content)
        return tokenize(at, "jsonl", f"texts/{file}", **more)

    return Case("JSON lines", name, make, says)


def _parquet(name: str, damage: Callable[[bytes], bytes], says: str, **more) -> Case:
    def make(at: Place) -> list:
        import pyarrow as pa
        from pyarrow import parquet

        path = at.write("texts/a.parquet", b"")
        parquet.write_table(pa.table({"text": ["a b c", "d e f"], "id": [1, 2]}), path)
        path.write_bytes(damage(path.read_bytes()))
        return tokenize(at, "parquet", "texts/a.parquet", **more)

    return Case("parquet", name, make, says)


def _zeroed_footer(content: bytes) -> bytes:
    length = int.from_bytes(content[-8:-4], "little")
    return content[: -8 - length] + bytes(length) + content[-8:]


def _folder_as_text(at: Place) -> list:
    (at.folder / "texts/a.txt").mkdir(parents=True)
    return tokenize(at, "text", "texts/*.txt")


def _package(package: str, *files: str) -> Callable[[Place], list]:
    return lambda at: tokenize(at, "package", *files, package=package)


def evaluate(at: Place) -> list:
    for each in (MODEL_FOLDER, FACTORS):
        at.copy(each)
    files = {"model": MODEL_FOLDER, "factors": FACTORS, "tokens": f"{DATA}/test"}
    files |= {"out": "out.json", "state": "state", "settings": PERPLEXITY}
    return ["evaluate-perplexity", *options(**files)]


def _tokens(name: str, damage: Callable[[Place], object], says: str) -> Case:
    def make(at: Place) -> list:
        at.copy(f"{DATA}/test")
        damage(at)
        return evaluate(at)

    return Case("tokens", name, make, says)


def _manifest(name: str, says: str, **changes) -> Case:
    return _tokens(name, lambda at: at.edit(f"{DATA}/test/manifest.json", **changes), says)


def _token_file(name: str, change: Callable[[bytes], bytes], says: str) -> Case:
    def damage(at: Place) -> None:
        path = at.folder / DATA / "test/tokens.bin"
        path.write_bytes(change(path.read_bytes()))

    return _tokens(name, damage, says)


def _no_folder(at: Place) -> list:
    return evaluate(at)


def _beyond(at: Place) -> None:
    """A document that ends behind the file."""
    path = at.folder / DATA / "test/manifest.json"
    record = json.loads(path.read_text())
    record["documents"][0]["tokens"] += 1000
    path.write_text(json.dumps(record))


def _questions(name: str, damage: Callable[[Place], object], says: str) -> Case:
    def make(at: Place) -> list:
        for each in (MODEL_FOLDER, FACTORS):
            at.copy(each)
        damage(at)
        settings = {"evaluation": "asked", "method": "pi", "window": "128", "files": "questions"}
        settings |= {"shots": {"arc_challenge": 1}, "questions": 2}
        files = {"model": MODEL_FOLDER, "factors": FACTORS, "out": "o.json", "state": "state"}
        return ["evaluate-benchmarks", *options(**files, settings=settings)]

    return Case("benchmark questions", name, make, says)


def _packed(content: bytes) -> Callable[[Place], object]:
    """A folder of questions whose hash is right, whatever the file holds."""
    import hashlib

    def damage(at: Place) -> None:
        file = {"name": "a.xz", "rows": 1, "sha256": hashlib.sha256(content).hexdigest()}
        about = {"files": {"asked": file, "shots": file}}
        at.write("questions/a.xz", content)
        manifest = {"schema": 1, "benchmarks": {"arc_challenge": about}}
        at.write("questions/manifest.json", json.dumps(manifest))

    return damage


def _ruler(at: Place) -> list:
    for each in (MODEL_FOLDER, FACTORS):
        at.copy(each)
    settings = {"evaluation": "needles", "method": "pi", "needles": ["single-1"], "seed": 1}
    settings |= {"prompts": {"128": 1}}
    files = {"model": MODEL_FOLDER, "factors": FACTORS, "out": "o.json", "state": "state"}
    return ["evaluate-ruler", *options(**files, samples="samples", settings=settings)]


MANIFEST = f"{DATA}/test/manifest.json"
CASES = [
    Case("text", "no file matches", lambda at: tokenize(at, "text", "none/*"), "no file matches"),
    Case("text", "a folder called like a text", _folder_as_text, "no file matches"),
    _texts("an empty file", {"a.txt": "x", "b.txt": ""}, "is empty"),
    _texts("only blanks", {"a.txt": " \n\t\n"}, "is empty"),
    _texts("Latin-1", {"a.txt": "Café".encode("latin-1")}, "not a readable UTF-8 text"),
    _texts("binary", {"a.txt": bytes(range(256))}, "not a readable UTF-8 text"),
    _texts("two files of one name", {"a.txt": "x", "a.md": "y"}, "appears twice"),
    _texts("no xz file", {"a.txt.xz": "plain text"}, "not a readable UTF-8 text"),
    _texts("xz cut short", {"a.txt.xz": lzma.compress(b"abc" * 999)[:-20]}, "not a readable"),
    _texts("gzip cut short", {"a.txt.gz": gzip.compress(b"abc" * 999)[:-9]}, "not a readable"),
    _texts("no zip file", {"a.zip": b"PK\3\4 no more"}, "cannot be read"),
    _texts(
        "splits name no document", {"a.txt": "x"}, "splits name documents that the source does not",
        splits={"validation": ["b"], "test": ["a"]},
    ),
    _lines("no JSON", "hello\n", "cannot be read"),
    _lines("cut short", '{"text": "abc"}\n{"text": "d', "cannot be read"),
    _lines("empty", "", "a.jsonl"),
    _lines("numbers", "1\n2\n", "cannot be read"),
    _lines("another column", '{"body": "abc"}\n', "no column 'text'"),
    _lines("a number as text", '{"text": 3}\n', "is no text but 3"),
    _lines("null as text", '{"text": null}\n', "is no text but None"),
    _lines("no id column", '{"text": "abc"}\n', "no column 'name'", id_column="name"),
    _lines(
        "an id twice", '{"text": "abc", "id": 1}\n{"text": "d", "id": 1}\n', "appears twice",
        id_column="id",
    ),
    _lines("binary", bytes(range(256)), "cannot be read"),
    _parquet("no parquet", lambda content: b"hello", "cannot be read"),
    _parquet("empty", lambda content: b"", "cannot be read"),
    _parquet("cut short", lambda content: content[: len(content) // 2], "cannot be read"),
    _parquet("damaged within its footer", _zeroed_footer, "cannot be read"),
    _parquet("another column", lambda content: content, "no column 'body'", text_column="body"),
    _parquet("numbers as text", lambda content: content, "is no text", text_column="id"),
    Case("text", "a package that is not there", _package("no-such", "*.txt"), "not installed"),
    Case("text", "a package without such files", _package("numpy", "*.novel"), "ships no file"),
    Case("tokens", "no such folder", _no_folder, "no such file"),
    _tokens("no manifest", lambda at: (at.folder / MANIFEST).unlink(), "no such file"),
    _tokens("no tokens", lambda at: (at.folder / DATA / "test/tokens.bin").unlink(), "missing"),
    _tokens(
        "a manifest that is a list", lambda at: at.write(f"{DATA}/test/manifest.json", "[]"),
        "holds a JSON list, expected an object",
    ),
    _tokens(
        "an empty manifest", lambda at: at.write(f"{DATA}/test/manifest.json", "{}"),
        "tokens of another version",
    ),
    _manifest("another schema", "tokens of another version", schema=99),
    _manifest("no hash", "manifest.json", sha256=None),
    _manifest("no documents", "manifest.json", documents=None),
    _manifest("documents that are a number", "manifest.json", documents=3),
    _manifest("documents without lengths", "manifest.json", documents=[{"id": "a"}]),
    _manifest("an unknown type of number", "manifest.json", dtype="uint17"),
    _manifest("a type of number that is none", "manifest.json", dtype=[1]),
    _manifest("a length in words", "manifest.json", tokens="many"),
    _manifest("tokens of another model", "tokens of another tokenizer", tokenizer="0" * 16),
    _tokens("a document that ends behind the file", _beyond, "manifest.json"),
    _token_file("a byte less", lambda content: content[:-1], "missing or cut short"),
    _token_file("empty", lambda content: b"", "missing or cut short"),
    _token_file("a bit flipped", lambda c: bytes([c[0] ^ 1]) + c[1:], "its sha256 is another"),
    _questions("no folder", lambda at: None, "no such file"),
    _questions("an empty manifest", lambda at: at.write("questions/manifest.json", "{}"), "schema"),
    _questions(
        "a manifest without benchmarks",
        lambda at: at.write("questions/manifest.json", '{"schema": 1}'), "manifest.json",
    ),
    _questions(
        "another benchmark only",
        lambda at: at.write("questions/manifest.json", '{"schema": 1, "benchmarks": {}}'),
        "has no questions of arc_challenge",
    ),
    _questions("a file that is no xz", _packed(b"hello"), "a.xz"),
    _questions("lines that are no JSON", _packed(lzma.compress(b"hello\n")), "a.xz"),
    _questions("a question without its fields", _packed(lzma.compress(b"{}\n{}\n")),
               "question 1 has no answerKey"),
    Case("text", "needles of no kind", _ruler, "needles"),
]  # fmt: skip
