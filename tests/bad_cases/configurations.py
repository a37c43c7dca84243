"""Configuration files: no YAML, wrong keys and values, parts that do not fit together."""

import json
from collections.abc import Callable

import micro
from bad_cases.kit import BUDGET, CONFIG, MODEL_FOLDER, SEARCH, Case, Place, options

KIND = "configuration"


def plan(at: Place) -> list:
    return ["plan", "--config", at.folder / "config.yaml", "--gpu", "a100-80gb"]


def _text(name: str, text: str | bytes, says: str) -> Case:
    def make(at: Place) -> list:
        at.write("config.yaml", text)
        return plan(at)

    return Case(KIND, name, make, says)


def _changed(name: str, change: Callable[[dict], object], says: str) -> Case:
    def make(at: Place) -> list:
        at.copy("source/config.json")
        at.config(change)
        return plan(at)

    return Case(KIND, name, make, says)


def _model(name: str, key: str, value: object, says: str) -> Case:
    """One key of the model, by its path."""

    def change(config: dict) -> None:
        part = config["models"]["tiny"]
        *path, last = key.split(".")
        for each in path:
            part = part[each]
        part[last] = value

    return _changed(name, change, says)


def _top(name: str, says: str, **keys) -> Case:
    return _changed(name, lambda config: config.update(keys), says)


def _corpus(name: str, says: str, **keys) -> Case:
    return _changed(name, lambda config: config["corpora"]["books"].update(keys), says)


def _settings(name: str, text: str, says: str) -> Case:
    def make(at: Place) -> list:
        for each in (MODEL_FOLDER, "results/tiny/data/books/validation"):
            at.copy(each)
        files = {"model": MODEL_FOLDER, "tokens": "results/tiny/data/books/validation"}
        files |= {"out": "f.json", "trace": "t.jsonl", "state": "state"}
        return ["search", *options(**files), "--settings", text]

    return Case("settings of a stage", name, make, says)


def _folder(at: Place) -> list:
    (at.folder / "config.yaml").mkdir()
    return plan(at)


def _dry_run(name: str, change: Callable[[dict], object], says: str) -> Case:
    """The same as Snakemake meets it."""

    def make(at: Place) -> list:
        at.config(change)
        for each in ("source", "texts"):
            at.copy(each)
        arguments = ("--dry-run",)
        return micro.snakemake(at.folder, at.folder / "config.yaml", *arguments)[1:]

    return Case("configuration, by snakemake", name, make, says, apart=True)


def _searched_at(window: str) -> Callable[[dict], object]:
    return lambda config: config["models"]["tiny"].update(search={window: BUDGET})


def _evaluation(**keys) -> dict:
    return CONFIG["models"]["tiny"]["evaluation"]["text"] | keys


def _unstated(at: Place) -> list:
    command = _dry_run("", lambda config: None, "").make(at)
    return [*command, "--config", "gpus=2"]


TWICE = "seed: 1\nseed: 2\ncorpora: {}\nmodels: {}\n"
CASES = [
    Case(KIND, "no such file", plan, "config.yaml"),
    Case(KIND, "a folder in place of the file", _folder, "config.yaml"),
    _text("empty", "", "an empty file"),
    _text("only a comment", "# nothing\n", "an empty file"),
    _text("a list", "- 1\n- 2\n", "holds a list, expected"),
    _text("a plain word", "hello\n", "holds a str, expected"),
    _text("binary", bytes(range(256)), "not a readable UTF-8 text"),
    _text("Latin-1", "seed: 1 # Café".encode("latin-1"), "not a readable UTF-8 text"),
    _text("UTF-16", "seed: 1".encode("utf-16"), "not a readable UTF-8 text"),
    _text("a NUL byte", "seed: 1\0", "not readable as YAML"),
    _text("a bracket that is not closed", "seed: [1\n", "not readable as YAML"),
    _text("a tab as indentation", "models:\n\ttiny: 1\n", "not readable as YAML"),
    _text("a key twice", TWICE, "'seed' is there twice"),
    _text("an unknown tag", "seed: !!python/object:os.system 1\n", "not readable as YAML"),
    _text("a key that is a list", "[1, 2]: 3\n", "unhashable key"),
    _text("nested a thousand deep", "[" * 1000 + "]" * 1000, "nested too deep"),
    _text("an alias to itself", "a: &a [*a]\n", "a: "),
    _text("only a seed", "seed: 1\n", "models: missing, and has no default"),
    _top("an unknown key", "unknown key; did you mean 'models'?", modles={}),
    _top("a seed that is a word", "seed: ", seed="one"),
    _top("a negative seed", "seed: ", seed=-1),
    _top("a seed that is true", "seed: ", seed=True),
    _top("no models", "models: ", models={}),
    _top("models as a list", "models: ", models=[1]),
    _top("a model that is null", "models.tiny: ", models={"tiny": None}),
    _top("a name with a slash", "a/b", models={"a/b": CONFIG["models"]["tiny"]}),
    _top("a name that is two dots", "..", models={"..": CONFIG["models"]["tiny"]}),
    _model("an unknown kind of source", "source.kind", "zip", "source"),
    _model("a source without its path", "source", {"kind": "folder"}, "path: missing"),
    _model("a path that is a number", "source.path", 7, "source.path: "),
    _model("an empty path", "source.path", "", "source.path: "),
    _model("a window in words", "original_window", "four", "write a whole number of tokens"),
    _model("a window of 0", "original_window", 0, "write a whole number of tokens"),
    _model("a negative window", "original_window", -64, "write a whole number of tokens"),
    _model("a window with a fraction", "original_window", 64.5, "write a whole number of tokens"),
    _model("a window of a hundred digits", "original_window", "9" * 100, "at most"),
    _model("a corpus that is not there", "corpus", "novels", "unknown corpus 'novels'"),
    _model("a searched window that is not above", "search", {"64": BUDGET}, "must be above"),
    _model(
        "the same window twice", "search",
        {"1k": {"evaluations": 5}, "1024": {"evaluations": 5}}, "are the same window",
    ),
    _model("a budget of nothing", "search", {"128": {"evaluations": 0}}, "evaluations"),
    _model("a budget in words", "search", {"128": "large"}, "search.128"),
    _model("an unknown optimiser", "optimiser", {"name": "adam"}, "optimiser"),
    _model("an optimiser without a name", "optimiser", {}, "optimiser"),
    _model("an unknown start", "optimiser.starts", ["pi", "yran"], "unknown closed form 'yran'"),
    _model("an attention factor of NaN", "attention_factor", float("nan"), "attention_factor"),
    _model("an attention factor below 0", "attention_factor", -1, "attention_factor"),
    _model("an infinite learning rate", "tunings.tuned.learning_rate", float("inf"), "finite"),
    _model("a learning rate of NaN", "tunings.tuned.learning_rate", float("nan"), "learning_rate"),
    _model("a batch that does not divide", "tunings.tuned.micro_batch", 3, "micro_batch"),
    _model("a share of NaN", "tunings.tuned.mixture", {"text": float("nan")}, "mixture"),
    _model("shares that do not add up", "tunings.tuned.mixture", {"text": 0.5}, "not to 1"),
    _model("a tuning that starts from itself", "tunings.tuned.start", "tuned", "circle"),
    _model("a tuning by an unknown method", "tunings.tuned.method", "ropey", "unknown method"),
    _model("an extension of other weights", "extension.weights", "best", "unknown tuning 'best'"),
    _model("a recovery above the tuning", "extension.recovery", {"256": BUDGET}, "must be below"),
    _model(
        "an evaluation by an unknown method", "evaluation.text",
        _evaluation(methods={"base": ["yaarn"]}), "unknown method 'yaarn'",
    ),
    _model("an unknown task", "evaluation.text", _evaluation(task="speed"), "task"),
    _model("an evaluation at no window", "evaluation.text", _evaluation(windows={}), "windows"),
    _model("a key of another part", "evaluation.text", _evaluation(batch=3), "but of another"),
    _corpus("no files of a corpus", "files", source={"kind": "text", "files": []}),
    _corpus("a corpus without splits", "splits", splits=None),
    _corpus(
        "a document in two splits", "in validation and in test",
        splits={"validation": ["emma"], "test": ["emma"]},
    ),
    _corpus(
        "shares of more than all", "splits", splits={"validation": 0.7, "test": 0.7},
    ),
    _settings("no JSON", "{", "--settings: not JSON"),
    _settings("empty", "", "--settings: not JSON"),
    _settings("a list", "[]", "--settings:"),
    _settings("null", "null", "--settings:"),
    _settings("a file that is not there", "@none.json", "--settings"),
    _settings("a file that is a folder", "@results", "--settings"),
    _settings("a file that is no text", f"@{MODEL_FOLDER}/model.safetensors", "--settings"),
    _settings("NaN for a window", '{"window": NaN}', "write a whole number of tokens"),
    _settings("nested a hundred thousand deep", "[" * 100_000, "--settings"),
    _settings(
        "a number of ten thousand digits", json.dumps(SEARCH)[:-1] + ', "seed": ' + "1" * 10_000
        + "}", "--settings",
    ),
    _dry_run("a key that is unknown", lambda config: config.update(sed=1), "did you mean 'seed'?"),
    _dry_run("a seed in words", lambda config: config.update(seed="one"), "seed: "),
    _dry_run("a window that is not above", _searched_at("64"), "must be above"),
    Case(
        "configuration, by snakemake", "GPUs without their kind", _unstated, "gpu=NAME", apart=True
    ),
]  # fmt: skip
