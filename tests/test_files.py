"""Files that are whole or absent, whatever happens while they are written."""

import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longrope.drafts import scratch
from longrope.errors import UserError
from longrope.files import (
    append_line,
    fingerprint,
    read_json,
    read_lines,
    replacing,
    resume_lines,
    sha256_of,
    write_json,
    write_lines,
    write_text,
)


def tree(folder) -> dict[str, str]:
    """Every file below a folder, with its text."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


# --- whole or not at all --------------------------------------------------------------------


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path):
    path = tmp_path / "deep" / "er" / "file.txt"
    write_text(path, "old")
    write_text(path, "new, é")
    assert path.read_text(encoding="utf-8") == "new, é"
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write_text(tmp_path / "file.txt", "old")
    with pytest.raises(error), replacing(tmp_path / "file.txt") as draft:
        draft.write_text("half")
        raise error
    assert tree(tmp_path) == {"file.txt": "old"}


def test_a_block_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("whole")
    with pytest.raises(RuntimeError), replacing(tmp_path / "model") as draft:
        draft.mkdir()
        (draft / "new").write_text("half")
        raise RuntimeError
    assert tree(tmp_path) == {"model/old": "whole"}


def test_a_folder_replaces_an_older_one_with_all_that_it_held(tmp_path):
    for name in ("first", "second"):
        with replacing(tmp_path / "model") as draft:
            (draft / "inner").mkdir(parents=True)
            (draft / "inner" / name).write_text(name)
    assert tree(tmp_path) == {"model/inner/second": "second"}


def test_the_file_does_not_exist_while_it_is_written(tmp_path):
    with replacing(tmp_path / "file.txt") as draft:
        draft.write_text("half")
        assert not (tmp_path / "file.txt").exists()
        assert draft.parent == tmp_path  # the same file system, so that renaming is atomic


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "file.txt", "old")
    code = (
        "import os, signal, pathlib, longrope.files as f\n"
        f"with f.replacing(pathlib.Path({str(tmp_path / 'file.txt')!r})) as draft:\n"
        "    draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert (tmp_path / "file.txt").read_text() == "old"


DIES = """
import os, signal, sys, pathlib, longrope.files as f
with f.replacing(pathlib.Path(sys.argv[1])) as draft:
    draft.mkdir() if sys.argv[2] == "folder" else draft.touch()
    (draft / "half" if draft.is_dir() else draft).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_leaves_is_removed_by_the_next_write(tmp_path, kind):
    path = tmp_path / "model.[1]"  # a name that means something else as a pattern
    for _ in range(2):
        died = subprocess.run([sys.executable, "-c", DIES, str(path), kind])
        assert died.returncode == -9
        assert len(os.listdir(tmp_path)) == 1  # the second has removed that of the first
    write_text(path, "whole")
    assert os.listdir(tmp_path) == [path.name]


def test_drafts_of_the_living_of_other_paths_and_of_other_machines_stay(tmp_path):
    here, init = platform.node(), 1
    others = [
        f".a.txt.{init}@{here}.part",  # it lives, whoever's it is
        ".a.txt.9@elsewhere.part",  # nobody can be asked
        f".a.txt.more.999999999@{here}.part",  # of a.txt.more
        f"a.txt.999999999@{here}.part",
    ]
    for name in others:
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "a.txt", "whole")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "a.txt"])


def test_a_draft_of_another_machine_goes_once_nothing_in_it_has_changed_for_a_day(tmp_path):
    old = tmp_path / ".model.9@elsewhere.part"
    (old / "deep").mkdir(parents=True)
    (old / "deep/weights").write_text("half")
    day = 24 * 3600
    for age, left in ((0.9 * day, True), (1.1 * day, False)):
        for each in (old / "deep/weights", old / "deep", old):
            os.utime(each, times=(time.time() - age,) * 2)
        write_text(tmp_path / "model", "whole")
        assert old.exists() == left


def test_a_kill_while_a_folder_replaces_another_leaves_no_half_of_either(tmp_path, monkeypatch):
    """A kill may come before any change of the disk: then the folder is the old, none, or new."""
    for name in ("first", "second"):
        (tmp_path / "model" / name).mkdir(parents=True)
    seen = []

    def look() -> None:
        seen.append(sorted(os.listdir(tmp_path / "model")) if (tmp_path / "model").exists() else 0)

    def watched(function):
        def watching(*arguments, **more):
            look()
            return function(*arguments, **more)

        return watching

    for name in ("replace", "rmdir", "unlink", "rename"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    with replacing(tmp_path / "model") as draft:
        (draft / "new").mkdir(parents=True)
    look()
    assert len(seen) > 4 and all(each in (["first", "second"], 0, ["new"]) for each in seen)
    assert seen[-1] == ["new"] and os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_replaced_is_still_there(tmp_path, monkeypatch, error):
    (tmp_path / "model" / "old").mkdir(parents=True)
    replace = os.replace

    def refused(source, target):
        if Path(target) == tmp_path / "model" and ".old" not in Path(source).name:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(type(error)), replacing(tmp_path / "model") as draft:
        (draft / "new").mkdir(parents=True)
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["old"]


@pytest.mark.parametrize("value", [math.nan, math.inf, {"deep": [-math.inf]}])
def test_what_is_no_json_is_neither_written_nor_replaces_a_file(tmp_path, value):
    write_json(tmp_path / "file.json", {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"new": value})
    assert read_json(tmp_path / "file.json") == {"old": 1}
    assert os.listdir(tmp_path) == ["file.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": ', "not a readable JSON file"),
        (b"\xff\xfe", "not a readable JSON file"),
        (b"3", "holds a JSON int, expected an object"),
        (b"null", "expected an object"),
    ],
)
def test_a_broken_json_file_is_one_clear_error(tmp_path, content, message):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_json(tmp_path / "file.json")
    assert "file.json" in str(error.value)


# --- lines ----------------------------------------------------------------------------------


def test_lines_come_back_in_order(tmp_path):
    for number in range(3):
        append_line(tmp_path / "new" / "log.jsonl", {"number": number})
    assert resume_lines(tmp_path / "new" / "log.jsonl") == [{"number": n} for n in range(3)]
    write_lines(tmp_path / "log.jsonl", [{"é": 1}])
    assert resume_lines(tmp_path / "log.jsonl") == [{"é": 1}]
    assert resume_lines(tmp_path / "missing.jsonl") == []


@pytest.mark.parametrize("kept", range(1, len('{"number": 2}\n')))
def test_a_last_line_cut_off_anywhere_is_dropped_and_the_next_is_whole(tmp_path, kept):
    path = tmp_path / "log.jsonl"
    write_lines(path, [{"number": 0}, {"number": 1}])
    with path.open("a") as file:
        file.write('{"number": 2}\n'[:kept])
    assert resume_lines(path) == [{"number": 0}, {"number": 1}]
    append_line(path, {"number": 3})
    assert [each["number"] for each in resume_lines(path)] == [0, 1, 3]


@pytest.mark.parametrize(
    "changed", [("0.125", "0.135"), ("loss", "lost"), ('"crc32": "', '"crc32": "0')]
)
def test_a_digit_that_the_disk_changed_is_found(tmp_path, changed):
    path = tmp_path / "log.jsonl"
    for step in range(3):
        append_line(path, {"step": step, "loss": 0.125 + step, "parts": {"a": [1, None]}})
    assert resume_lines(path)[1] == {"step": 1, "loss": 1.125, "parts": {"a": [1, None]}}
    path.write_text(path.read_text().replace(*changed, 1))
    with pytest.raises(UserError, match=r"line 1 is damaged; delete .* and run its stage again"):
        resume_lines(path)


def test_a_file_that_was_written_whole_is_known_to_be_cut_short_and_a_growing_one_is_not(tmp_path):
    whole, growing = tmp_path / "whole.jsonl", tmp_path / "growing.jsonl"
    records = [{"step": step} for step in range(4)]
    write_lines(whole, records)
    for record in records:
        append_line(growing, record)
    assert read_lines(whole) == read_lines(growing) == resume_lines(whole) == records
    for path in (whole, growing):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert read_lines(growing) == resume_lines(whole) == records[:3]
    with pytest.raises(
        UserError, match=r"whole\.jsonl: cut short after 3 lines; delete .* and run"
    ):
        read_lines(whole)
    append_line(whole, {"step": 7})  # a training that goes on from it
    assert [each["step"] for each in read_lines(whole)] == [0, 1, 2, 7]
    whole.write_text("")
    with pytest.raises(UserError, match="cut short after 0 lines"):
        read_lines(whole)


def test_a_letter_cut_in_half_is_dropped_too(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n' + '{"a": "é'.encode()[:-1])
    assert resume_lines(path) == [{"a": 1}]


def test_a_broken_line_with_good_ones_after_it_is_not_thrown_away_in_silence(tmp_path):
    """A kill can only cut the end of a file off: this is damage, and the rest cost hours."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(UserError, match=r"log\.jsonl"):
        resume_lines(path)
    assert path.read_text().endswith('{"a": 3}\n')


# --- fingerprints ---------------------------------------------------------------------------


def test_a_fingerprint_depends_on_the_value_alone():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    values = [1, 1.5, "1", [1], {"1": 1}, None, True, [1, 2], [2, 1], [[1], 2]]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert len(fingerprint({})) == 16


def test_a_fingerprint_is_the_same_in_another_process():
    code = "import longrope.files as f; print(f.fingerprint({'b': [1, 'x'], 'a': None}))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert out.stdout.decode().strip() == fingerprint({"a": None, "b": [1, "x"]})


def test_the_sha256_is_that_of_the_contents_in_order(tmp_path):
    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"c")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180
    assert sha256_of(tmp_path / "a", tmp_path / "b") == known


def test_a_link_is_followed_and_scratch_of_a_dead_process_is_removed(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large")
    with replacing(tmp_path / "link") as draft:
        draft.mkdir()
        (draft / "file").write_text("a")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "large/file").read_text() == "a"
    dead = tmp_path / f".made.{2**22 + 1}@{platform.node()}.scratch.part"
    dead.mkdir()
    with scratch(tmp_path / "made") as folder:
        assert list(folder.iterdir()) == [] and not dead.exists()
        with replacing(tmp_path / "made") as draft:
            draft.write_text("b")
        assert folder.is_dir()
    assert {each.name for each in tmp_path.iterdir()} == {"large", "link", "made"}
