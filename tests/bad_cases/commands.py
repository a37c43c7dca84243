"""Command lines: options that are missing, unknown, contradictory, or beyond what they may be."""

import json
from collections.abc import Callable

from bad_cases.kit import (
    DATA,
    EXTENDED,
    FACTORS,
    MODEL_FOLDER,
    PERPLEXITY,
    SEARCH,
    SEARCHED,
    TUNED,
    TUNING,
    Case,
    Place,
    options,
)  # fmt: skip


def _usage(name: str, says: str, *arguments: str, apart: bool = False) -> Case:
    return Case("usage", name, lambda at: list(arguments), says, 2, apart)


def _command(name: str, says: str, *arguments: str, files: tuple[str, ...] = ()) -> Case:
    def make(at: Place) -> list:
        for each in files:
            at.copy(each)
        return list(arguments)

    return Case("command", name, make, says)


def _generate(name: str, says: str, *arguments: str) -> Case:
    return _command(name, says, "generate", TUNED, *arguments, files=(TUNED,))


def _own(name: str, says: str, **changes) -> Case:
    given = {"to": "128", "gpu": "a100-80gb", "text": "texts/*.txt", "out": "own.yaml"} | changes

    def make(at: Place) -> list:
        at.copy("source")
        at.copy("texts")
        for name in "abcd":
            at.write(f"long/{name}.txt", "many words " * 20_000)
        return ["init", "source", *options(**given)]

    return Case("command", name, make, says)


def _plan(name: str, says: str, **changes) -> Case:
    def make(at: Place) -> list:
        at.copy("source")
        at.config()
        return ["plan", *options(**({"config": "config.yaml", "gpu": "a100-80gb"} | changes))]

    return Case("command", name, make, says)


def _stage(name: str, says: str, stage: str, settings: dict, more: Callable = dict) -> Case:
    """A stage whose settings do not fit what it is given."""

    def make(at: Place) -> list:
        for each in (MODEL_FOLDER, FACTORS, DATA, f"{SEARCHED}/factors.json"):
            at.copy(each)
        files = {"model": MODEL_FOLDER, "out": "out.json", "state": "state"} | more()
        return [*stage.split(), *options(**files, settings=settings)]

    return Case("command", name, make, says)


def _searched() -> dict:
    return {"tokens": f"{DATA}/validation", "trace": "t.jsonl"}


def _tuned() -> dict:
    return {"tokens": f"{DATA}/train", "factors": FACTORS, "metrics": "m.jsonl", "out": "tuned"}


def _measured() -> dict:
    return {"tokens": f"{DATA}/test", "factors": [FACTORS]}


def _in_the_way(at: Place) -> list:
    """A file where a folder of the output should be."""
    at.copy(MODEL_FOLDER)
    at.write("file", "in the way")
    return ["derive", "pi", *options(window="128", model=MODEL_FOLDER, out="file/f.json")]


def _folder_in_the_way(at: Place) -> list:
    at.copy(MODEL_FOLDER)
    at.write("f.json/kept", "in the way")
    return ["derive", "pi", *options(window="128", model=MODEL_FOLDER, out="f.json")]


def _log_in_the_way(at: Place) -> list:
    at.copy(MODEL_FOLDER)
    at.write("file", "in the way")
    files = options(window="128", model=MODEL_FOLDER, out="f.json")
    return ["--log", "file/a.log", "derive", "pi", *files]


def _pretrain(at: Place) -> list:
    at.write("texts/a.txt", "short")
    at.write("texts/b.txt", "short too")
    architecture = {"hidden_size": 30, "layers": 1, "heads": 4, "intermediate_size": 64}
    architecture |= {"vocabulary": 320, "theta": 10000}
    phases = [{"steps": 1, "length": 64, "mixture": {"text": 1.0}}]
    model = {"kind": "pretrain", "architecture": architecture, "phases": phases}
    corpus = {"source": {"kind": "text", "files": ["texts/*.txt"]}, "splits": {"test": ["b"]}}
    settings = {"model": model | {"tokens_per_step": 64}, "corpus": corpus, "seed": 1}
    files = {"name": "tiny", "out": "model", "state": "state"}
    return ["pretrain", *options(**files, settings=settings | {"original_window": "64"})]


def _sync(name: str, says: str, content: str | bytes) -> Case:
    def make(at: Place) -> list:
        at.write("logs/a.run.json", content)
        return ["sync"]

    return Case("run record", name, make, says)


def _begun(name: str, says: str, content: str | bytes) -> Case:
    """An extension that goes on from a configuration of an earlier start."""

    def make(at: Place) -> list:
        at.copy("source")
        at.write("own/config.yaml", content)
        return ["extend", "source", *options(to="128", out="own", dry_run=True)]

    return Case("command", name, make, says)


EXPORT = ("export", "--model", f"{TUNED}/model", "--factors", EXTENDED)
NUMBER = "is no whole number from 1 up"
CASES = [
    _usage("an own model's name that is a path", "a letter or digit, then",
           "init", "source", "--to", "128", "--name", "a/b"),
    _usage("an unknown stage", "did you mean 'search'?", "serach"),
    _usage("a stage that is near none", "one of check, init,", "abacus"),
    _usage("an unknown option", "unknown --fast", "schema", "--fast"),
    _usage("a required option missing", "--window", "derive", "pi", "--model", "a", "--out", "b"),
    _usage("a window that is none", "write a whole number", "factors", "--window", "1m"),
    _usage("a window of 0", "write a whole number", "factors", "--window", "0"),
    _usage("no processes", NUMBER, "--processes", "0", "schema"),
    _usage("a negative number of nodes", NUMBER, "--nodes", "-1", "schema"),
    _usage("processes in words", NUMBER, "--processes", "two", "schema"),
    _usage("a rendezvous without a port", "HOST:PORT", "--rendezvous", "host", "schema"),
    _usage("a number in words", "invalid int value", "generate", "a", "--new-tokens", "many"),
    _usage("a temperature in words", "invalid float", "generate", "a", "--temperature", "hot"),
    _usage("an unknown form", "unknown 'onnx'; one", *EXPORT, "--out", "a", "--form", "onnx"),
    _usage("an unknown type", "unknown 'int4'; one", *EXPORT, "--out", "a", "--dtype", "int4"),
    _usage("two origins", "not allowed with", "import-factors", "--csv", "a", "--checkpoint", "b",
           "--out", "c"),
    _usage("no origin", "one of the arguments", "import-factors", "--out", "c"),
    _usage("a plan of nothing", "one of the arguments", "plan", "--gpu", "cpu"),
    _usage("a simulation in words", NUMBER, "plan", "--config", "a", "--gpu", "cpu", "--simulate",
           "many"),
    _usage("a method missing", "method", "derive", "--window", "8k", "--model", "a", "--out", "b"),
    _usage("a count of questions in words", NUMBER, "fetch-benchmarks", "--questions", "x",
           "--out", "a"),
    _usage("as a process, an unknown stage", "did you mean", "serach", apart=True),
    _command("a stage that does not spread", "derive runs in one process", "--processes", "2",
             "derive", "pi", *options(window="128", model=MODEL_FOLDER, out="f.json"),
             files=(MODEL_FOLDER,)),
    _command("sequences of more processes than there are", "cannot be grouped by 4",
             "--per-sequence", "4", "schema"),
    _command("an unknown closed form", "unknown method 'pii': known are", "derive", "pii",
             *options(window="128", model=MODEL_FOLDER, out="f.json"), files=(MODEL_FOLDER,)),
    _command("a window below the model's", "32", "derive", "pi",
             *options(window="32", model=MODEL_FOLDER, out="f.json"), files=(MODEL_FOLDER,)),
    _command("tuned factors of weights that are not", "not tuned", "derive", "yarn-on-tuned",
             *options(window="128", model=MODEL_FOLDER, out="f.json"), files=(MODEL_FOLDER,)),
    _command("no factors to assemble", "at least one window", "assemble",
             *options(model=MODEL_FOLDER, factors=[], out="extended"), files=(MODEL_FOLDER,)),
    _command("a model that is a file", "no such folder", "derive", "pi",
             *options(window="128", model=FACTORS, out="f.json"), files=(FACTORS,)),
    Case("command", "a file where a folder should be", _in_the_way, "file"),
    Case("command", "a folder where a file should be", _folder_in_the_way, "f.json"),
    Case("command", "a log that cannot be written", _log_in_the_way, "cannot be written"),
    _stage("a search below the window", "must be above", "search", SEARCH | {"window": "64"},
           _searched),
    _stage("a search beyond its documents", "documents of at least", "search",
           SEARCH | {"window": "64k"}, _searched),
    _stage("a recovery of weights that are not tuned", "is for fine-tuned weights",
           "search --recovery", SEARCH | {"window": "64"}, _searched),
    _stage("warm factors that are not there", "no such file", "search", SEARCH,
           lambda: _searched() | {"warm": "none.json"}),
    _stage("a tuning with factors of another window", "128", "finetune",
           {"name": "t", "tuning": TUNING | {"window": "256"}, "seed": 1}, _tuned),
    _stage("a tuning called base", "base", "finetune",
           {"name": "base", "tuning": TUNING, "seed": 1}, _tuned),
    _stage("more windows than there are", "at 65,536 tokens wants", "evaluate-perplexity",
           PERPLEXITY | {"windows": {"64k": 1}}, _measured),
    _stage("passkeys in a window that is too short", "8", "evaluate-passkey",
           {"evaluation": "p", "method": "pi", "prompts": {"8": 1}, "key": "digits-5", "seed": 1},
           lambda: {"factors": [FACTORS]}),
    _stage("no factors to evaluate with", "at least one window", "evaluate-passkey",
           {"evaluation": "p", "method": "pi", "prompts": {"64": 1}, "key": "word", "seed": 1},
           lambda: {"factors": []}),
    Case("command", "heads that the width does not divide", _pretrain, "heads"),
    _generate("an empty prompt", "the prompt is empty", ""),
    _generate("no prompt", "give either a prompt or --file"),
    _generate("a prompt and a file", "give either a prompt or --file", "a", "--file", "b"),
    _generate("a question without a file", "--question needs --file", "a", "--question", "b?"),
    _generate("a file that is not there", "none.txt", "--file", "none.txt"),
    _generate("a file that is a folder", "results", "--file", "results"),
    _generate("a file that is no text", "model.safetensors", "--file",
              f"{TUNED}/model/model.safetensors"),
    _generate("no new tokens", "must be 1 or more", "a", "--new-tokens", "0"),
    _generate("more than the longest window", "shorten the text", "a", "--new-tokens", "9999"),
    _generate("a negative temperature", "must be a finite number", "a", "--temperature=-1"),
    _generate("a temperature of NaN", "must be a finite number", "a", "--temperature", "nan"),
    _generate("a negative seed", "from 0 to 2^63", "a", "--seed=-1"),
    _generate("unknown factors", "neither a file nor a published", "a", "--factors", "none"),
    _command("a path that is nothing", "neither a folder of results", "generate", "none", "a"),
    _command("a GGUF file to generate with", "longrope export --model", "generate", "a.gguf", "a"),
    _command("a checkpoint that was tuned here, to extend", "start from the model that they were",
             "init", f"{TUNED}/model", "--to", "256", files=(f"{TUNED}/model",)),
    _command("a JSON file of another kind, to audit", "no configuration of a model", "check",
             FACTORS, files=(FACTORS,)),
    _command("instructions with factors that are not there", "no such file",
             "evaluate-instructions", *options(model=MODEL_FOLDER, out="o", factors="none"),
             files=(MODEL_FOLDER,)),
    _own("a target that is no longer", "name a longer one", to="64"),
    _own("a target too far", "up to 64x", to="8k", text="long/*.txt"),
    _own("no hours", "--hours 0", hours=0),
    _own("hours of NaN", "--hours nan", hours="nan"),
    _own("an unknown GPU", "unknown GPU 'abacus'", gpu="abacus"),
    _own("texts that are not there", "matches 0 files", text="none/*.txt"),
    _own("texts that are no text", "not a readable UTF-8 text", text="source/*"),
    _own("texts that are too short", "have fewer than", to="4k"),
    _begun("a configuration of another time that is empty", "not the configuration of", ""),
    _begun("a configuration of another time that is a list", "not the configuration of", "[]"),
    _begun("a configuration of another time that is binary", "not the configuration of",
           bytes(range(256))),
    _command("a project that is none", "--project", "extend", "source",
             *options(to="128", project="texts", dry_run=True), files=("source", "texts")),
    _plan("an unknown GPU to plan for", "unknown GPU 'abacus'", gpu="abacus"),
    _plan("half a GPU's name", "did you mean 'a100-80gb'?", gpu="a100"),
    _plan("no GPUs", "at least 1", gpus=0),
    _plan("negative memory", "numbers above 0", memory="-1"),
    _plan("memory of NaN", "numbers above 0", memory="nan"),
    _plan("a utilisation of 200%", "it is a share", utilisation="2"),
    _plan("an efficiency of 0", "efficiency", efficiency="0", simulate="2"),
    _plan("an unknown target", "target", target="everything"),
    _command("a checkpoint to audit for an unknown engine", "unknown engine", "check", "source",
             "--engine", "abacus", files=("source",)),
    _command("weights to audit without their folder", "name the folder of a checkpoint", "check",
             "source/model.safetensors", files=("source",)),
    _command("an export for an unknown engine", "unknown engine", *EXPORT, "--out", "a", "--engine",
             "abacus", files=(TUNED,)),
    _command("an export of a tier that is not there", "4k", *EXPORT, "--out", "a", "--tier", "4k",
             files=(TUNED,)),
    _command("an export into its own source", "take another", *EXPORT, "--out", f"{TUNED}/model",
             files=(TUNED,)),
    _command("an export over something else", "no export", *EXPORT, "--out", "texts",
             files=(TUNED, "texts")),
    _command("an entry with a slash in its name", "letters, digits", "publish",
             *options(name="a/b", about="a", command="b", model=MODEL_FOLDER, factors=[FACTORS],
                      records=[]), files=(MODEL_FOLDER, FACTORS)),
    _usage("a negative count of questions", NUMBER, "fetch-benchmarks", "--questions=-1", "--out",
           "a"),
    _sync("no JSON", "1 failed to get into MLflow", "{"),
    _sync("a list", "1 failed to get into MLflow", "[]"),
    _sync("an empty object", "1 failed to get into MLflow", "{}"),
    _sync("a date that is none", "1 failed to get into MLflow", json.dumps({
        "schema": 1, "run_id": "1", "stage": "search", "name": "a", "status": "finished",
        "started": "yesterday", "seconds": 1.0, "metrics": {}})),
]  # fmt: skip
