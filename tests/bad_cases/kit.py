"""
What bad inputs are made of: a small study that is sound, and ways to damage copies of its files.

A case gets a `Place`: an empty folder of its own, and the sound study to copy from. It damages one
thing and returns the command that meets it.
"""

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from helpers import SPLIT, save_llama, write_excerpts
from longrope.cli import main
from longrope.files import CHECKSUM

BUDGET = {"evaluations": 5, "documents": 1}
TUNING = {"method": "search", "window": "128", "steps": 2, "batch": 1, "learning_rate": 0.01}
TEXT = {"task": "perplexity", "windows": {"64": 1, "128": 1}, "shown_in": ["tunings", "table05"]}
TEXT |= {"methods": {"base": ["none", "pi"], "tuned": ["tuned"]}}
MODEL = {
    "source": {"kind": "folder", "path": "source"},
    "original_window": "64",
    "corpus": "books",
    "optimiser": {"name": "cma"},
    "search": {"128": BUDGET},
    "tunings": {"tuned": TUNING},
    "extension": {"weights": "tuned", "search": {"256": BUDGET}, "recovery": {"64": BUDGET}},
    "evaluation": {"text": TEXT},
}
CORPUS = {"source": {"kind": "text", "files": ["texts/*.txt"]}, "splits": SPLIT}
CONFIG = {"seed": 1, "corpora": {"books": CORPUS}, "models": {"tiny": MODEL}}
SEARCH = {
    "budget": BUDGET, "optimiser": {"name": "cma"}, "attention_factor": "none", "seed": 1,
    "window": "128",
}  # fmt: skip
PERPLEXITY = {"evaluation": "text", "method": "pi", "windows": {"128": 1}}
BASE, TUNED = "results/tiny/base", "results/tiny/tuned"
MODEL_FOLDER = f"{BASE}/model"
FACTORS = f"{BASE}/factors/pi/128/factors.json"
SEARCHED = f"{BASE}/factors/search/128"
RECORD = f"{BASE}/evaluation/text/pi.json"
METRICS = f"{TUNED}/training/metrics.jsonl"
EXTENDED = f"{TUNED}/extended/extended.json"
DATA = "results/tiny/data/books"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one case is made."""

    folder: Path  # its own, empty; the command runs in it
    sound: Path  # the sound study, not to be changed

    def copy(self, name: str) -> Path:
        """A copy of a file or folder of the sound study, in the same place."""
        source, target = self.sound / name, self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, target)
        return target

    def write(self, name: str, content: str | bytes) -> Path:
        """A new file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def edit(self, name: str, **changes) -> Path:
        """A copy of a JSON file with other values; `None` takes a key out. It has no checksum, as
        one that was written by other means."""
        path = self.folder / name
        path = path if path.exists() else self.copy(name)
        record = json.loads(path.read_text()) | {CHECKSUM: None} | changes
        path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))
        return path

    def config(self, change: Callable[[dict], object] = lambda config: None) -> Path:
        """The sound configuration, changed, as a YAML file."""
        config = json.loads(json.dumps(CONFIG))
        change(config)
        return self.write("config.yaml", yaml.safe_dump(config, sort_keys=False))


@dataclass(frozen=True, slots=True)
class Case:
    """One bad input, and what is to come of it."""

    kind: str  # of input
    name: str  # what is wrong with it, in a few words; unique in its kind
    make: Callable[[Place], list]  # does the damage; returns the command's arguments
    says: str  # what the message must contain
    code: int = 1  # 2: wrong usage
    apart: bool = False  # run as a process of its own

    @property
    def id(self) -> str:
        """Its name among all cases."""
        return f"{self.kind}: {self.name}"


def make_sound(folder: Path) -> Path:
    """Run every stage once, in the paths of results/, from a random checkpoint."""

    def run(*arguments, settings: dict | None = None) -> None:
        options = [] if settings is None else ["--settings", json.dumps(settings)]
        command = [*map(str, arguments), *options]
        assert main(command) == 0, command

    at = functools.partial(Path, folder)
    model, tuned, data = at(MODEL_FOLDER), at(f"{TUNED}/model"), at(DATA)
    source = save_llama(at("source"))
    write_excerpts(at("texts"))
    brought = {"source": {"kind": "folder", "path": str(source)}, "original_window": "64"}
    run("import-model", "--name", "tiny", "--out", model, settings=brought)
    corpus = CORPUS | {"source": {"kind": "text", "files": [f"{folder}/texts/*.txt"]}}
    run("tokenize", "--model", model, "--out", data, settings={"corpus": corpus})
    run("derive", "pi", "--window", "128", "--model", model, "--out", at(FACTORS))

    def search(model: Path, place: str, settings: dict, *more: str) -> None:
        files = ["--out", at(f"{place}/factors.json"), "--trace", at(f"{place}/trace.jsonl")]
        files += ["--state", at(f"state/{place}"), "--tokens", data / "validation"]
        run("search", "--model", model, *files, *more, settings=SEARCH | settings)

    search(model, SEARCHED, {})
    run(
        "finetune", "--model", model, "--factors", at(f"{SEARCHED}/factors.json"),
        "--tokens", data / "train", "--out", tuned, "--metrics", at(METRICS),
        "--state", at("state/tuned"), settings={"name": "tuned", "tuning": TUNING, "seed": 1},
    )  # fmt: skip
    search(tuned, f"{TUNED}/factors/search/256", {"window": "256"})
    search(tuned, f"{TUNED}/factors/recovery/64", {"window": "64"}, "--recovery")
    parts = (f"{SEARCHED}", f"{TUNED}/factors/search/256", f"{TUNED}/factors/recovery/64")
    tiers = [at(part, "factors.json") for part in parts]
    run("assemble", "--model", tuned, "--out", at(EXTENDED).parent, "--factors", *tiers)
    run(
        "evaluate-perplexity", "--model", model, "--tokens", data / "test", "--out", at(RECORD),
        "--state", at("state/text"), "--factors", at(FACTORS), settings=PERPLEXITY,
    )  # fmt: skip
    factors = at(f"{SEARCHED}/factors.json")
    run(
        "export", "--form", "gguf", "--model", model, "--factors", factors, "--out",
        at("gguf"), "--licence", "mit",
    )  # fmt: skip
    return folder


def options(**values) -> list[str]:
    """`--name value` of each; a list gives several values, a dict its JSON, `True` none."""
    found: list[str] = []
    for name, value in values.items():
        found.append("--" + name.replace("_", "-"))
        if isinstance(value, dict):
            value = json.dumps(value)
        if value is not True:
            found += map(str, value if isinstance(value, list) else [value])
    return found
