"""What stages leave for other stages: records, traces, metrics, progress, run records."""

import json
from collections.abc import Callable

from bad_cases.kit import (
    CONFIG,
    DATA,
    EXTENDED,
    FACTORS,
    METRICS,
    MODEL_FOLDER,
    RECORD,
    SEARCH,
    SEARCHED,
    TUNED,
    TUNING,
    Case,
    Place,
    options,
)  # fmt: skip

PAPER = "table,base,method,fine_tune_window,dataset,setting,length,metric,bound,value\n"
PASSKEYS = {"accuracy": 0.0, "found": 0, "prompts": 1, "low": 0.0, "high": 0.9}
TRACE = f"{SEARCHED}/trace.jsonl"


def summarise(at: Place) -> list:
    return ["summarise", *options(records=[RECORD], out="summary", settings=CONFIG)]


def _record(name: str, says: str, damage: Callable[[Place], object]) -> Case:
    def make(at: Place) -> list:
        damage(at)
        return summarise(at)

    return Case("evaluation record", name, make, says)


def _key(name: str, says: str, **changes) -> Case:
    return _record(name, says, lambda at: at.edit(RECORD, **changes))


def _text(name: str, says: str, content: str | bytes) -> Case:
    return _record(name, says, lambda at: at.write(RECORD, content))


def _twice(at: Place) -> list:
    at.copy(RECORD)
    at.write("again.json", (at.folder / RECORD).read_text())
    records = [RECORD, "again.json"]
    return ["plot", "figure3", *options(records=records, out="figure", settings=CONFIG)]


def tabulate(table: str, **files) -> list:
    given = {"records": [RECORD], "traces": [], "trainings": [], "paper": "tables.csv"} | files
    return ["tabulate", table, *options(**given, out="table", settings=CONFIG)]


def _table(
    kind: str, name: str, says: str, damage: Callable[[Place], object], table: str, **files
) -> Case:
    def make(at: Place) -> list:
        at.copy(RECORD)
        at.write("tables.csv", PAPER)
        damage(at)
        return tabulate(table, **files)

    return Case(kind, name, make, says)


def _lines(path: str, change: Callable[[list[str]], list[str]]) -> Callable[[Place], object]:
    def damage(at: Place) -> None:
        lines = at.copy(path).read_text().splitlines(keepends=True)
        (at.folder / path).write_text("".join(change(lines)))

    return damage


def _without_key(key: str) -> Callable[[list[str]], list[str]]:
    """Lines without a key, and without the checksum that would tell."""

    def change(lines: list[str]) -> list[str]:
        kept = [json.loads(line) for line in lines]
        dropped = (key, "crc32")
        return [json.dumps({k: v for k, v in x.items() if k not in dropped}) + "\n" for x in kept]

    return change


def _trace(name: str, says: str, damage: Callable[[Place], object]) -> Case:
    return _table("trace", name, says, damage, "searches", traces=[TRACE])


def _metrics(name: str, says: str, damage: Callable[[Place], object]) -> Case:
    return _table("metrics", name, says, damage, "tunings", trainings=[METRICS])


def _paper(name: str, says: str, content: str | bytes) -> Case:
    """The paper's numbers stand beside those of its models alone."""
    model = CONFIG["models"]["tiny"]
    source = {"kind": "hub", "name": "meta-llama/Llama-2-7b-hf"}
    settings = CONFIG | {"models": {"tiny": model | {"source": source}}}

    def make(at: Place) -> list:
        at.copy(RECORD)
        at.write("tables.csv", content)
        return [*tabulate("table05"), *options(settings=settings)]

    return Case("the paper's numbers", name, make, says)


def search(at: Place) -> list:
    at.copy(MODEL_FOLDER)
    at.copy(f"{DATA}/validation")
    files = {"model": MODEL_FOLDER, "tokens": f"{DATA}/validation", "out": "f.json"}
    files |= {"trace": "t.jsonl", "state": f"state/{SEARCHED}", "settings": SEARCH}
    return ["search", *options(**files)]


def _progress(name: str, says: str, change: Callable[[list[str]], list[str]]) -> Case:
    def make(at: Place) -> list:
        at.copy(f"state/{SEARCHED}")
        _lines(f"state/{SEARCHED}/trace.jsonl", change)(at)
        return search(at)

    return Case("progress of a search", name, make, says)


def finetune(at: Place) -> list:
    at.copy(MODEL_FOLDER)
    at.copy(f"{DATA}/train")
    at.copy(f"{SEARCHED}/factors.json")
    files = {"model": MODEL_FOLDER, "factors": f"{SEARCHED}/factors.json"}
    files |= {"tokens": f"{DATA}/train", "out": "tuned", "metrics": "m.jsonl"}
    settings = {"name": "tuned", "tuning": TUNING, "seed": 1}
    return ["finetune", *options(**files, state="state/tuned", settings=settings)]


def _tuning_metrics(at: Place) -> list:
    at.copy("state/tuned")
    path = at.folder / "state/tuned/metrics.jsonl"
    path.write_text(path.read_text().replace("loss", "lost", 1))
    return finetune(at)


def _publish(at: Place, **changes) -> list:
    for each in (MODEL_FOLDER, FACTORS):
        at.copy(each)
    at.edit(RECORD, **changes)
    files = {"name": "entry", "about": "a", "command": "b", "model": MODEL_FOLDER}
    files |= {"factors": [FACTORS], "records": [RECORD], "out": "entry.json"}
    return ["publish", *options(**files)]


def _card(at: Place) -> list:
    at.copy(MODEL_FOLDER)
    at.copy(f"{DATA}/train")
    files = {"model": MODEL_FOLDER, "tokens": f"{DATA}/train", "records": [], "out": "card.md"}
    return ["card", *options(**files)]


def _export(name: str, says: str, records: Callable[[Place], list], trainings: list = ()) -> Case:
    def make(at: Place) -> list:
        at.copy(TUNED)
        files = {"model": f"{TUNED}/model", "factors": EXTENDED, "out": "export"}
        files |= {"records": records(at), "trainings": list(trainings), "licence": "mit"}
        return ["export", *options(**files)]

    return Case("files for an export", name, make, says)


def _own_record(**changes) -> Callable[[Place], list]:
    """A record that says that it is of the tuned weights."""

    def make(at: Place) -> list:
        weights = json.loads((at.folder / TUNED / "model/longrope.json").read_text())
        at.edit(RECORD, **({"weights_fingerprint": weights["fingerprint"]} | changes))
        return [RECORD]

    return make


CASES = [
    _record("not there", "no such file", lambda at: None),
    _text("empty", "not a readable JSON file", ""),
    _text("a list", "expected an object", "[]"),
    _text("cut short", "not a readable JSON file", '{"schema": 2, "task": "per'),
    _key("another schema", "expected schema 2", schema=1),
    _key("no results", "results: missing", results=None),
    _key("results that are a list", RECORD, results=[1]),
    _key("results that are words", RECORD, results={"128": "good"}),
    _key("results without their numbers", RECORD, results={"128": {}}),
    _key("factors that are a list", RECORD, factors=[]),
    _key("records that are a number", RECORD, records=3),
    _key("a length that is none", "window 'x'", results={"x": {}}),
    _key("a protocol that is a word", RECORD, protocol="strict"),
    _key("another model", "not in this configuration", model="huge"),
    _key("a model that is a list", RECORD, model=["tiny"]),
    _key("another method", "not in this configuration", method="yarn"),
    _key("other amounts", "not measured as this configuration asks", amounts={"128": 5}),
    _key("amounts in words", RECORD, amounts={"128": "many"}),
    _key("records without their losses", RECORD, records=[{"length": 128}]),
    Case("evaluation record", "the same twice", _twice, "a second evaluation of the same method"),
    _trace("not there", "cannot be read", lambda at: None),
    _trace("empty", "cut short after 0 lines", _lines(TRACE, lambda lines: [])),
    _trace("a line lost", "cut short after 4 lines", _lines(TRACE, lambda lines: lines[:-1])),
    _trace("a broken line", "line 2 is damaged", _lines(TRACE, lambda x: [x[0], "{\n", *x[2:]])),
    _trace("a line of numbers", TRACE, _lines(TRACE, lambda lines: ["3\n", *lines])),
    _trace("no tokens", "(tokens: Field required)", _lines(TRACE, _without_key("tokens"))),
    _trace("no best", "(best_fitness: Field required)", _lines(
        TRACE, _without_key("best_fitness"))),
    _table("trace", "of another search", "the trace of no search", lambda at: at.write(
        "a.jsonl", ""), "searches", traces=["a.jsonl"]),
    _metrics("empty", "cut short after 0 lines", _lines(METRICS, lambda lines: [])),
    _metrics("binary", "line 1 is damaged", lambda at: at.write(METRICS, bytes(range(256)))),
    _metrics("a line of words", METRICS, _lines(METRICS, lambda lines: ['"loss"\n', *lines])),
    _metrics("no tokens", "incomplete", _lines(METRICS, _without_key("tokens"))),
    _metrics("tokens in words", "incomplete", lambda at: at.write(
        METRICS, '{"trained_parameters": 1, "tokens": "x", "seconds": 1, "peak_memory": 1}\n')),
    _paper("empty", "no column", ""),
    _paper("other columns", "no column", "a,b\n1,2\n"),
    _paper("binary", "tables.csv", bytes(range(256))),
    Case("evaluation record", "of another table", lambda at: (
        at.copy(RECORD), at.write("tables.csv", PAPER), tabulate("table99"))[-1], "table99"),
    Case("evaluation record", "of another figure", lambda at: (at.copy(RECORD), [
        "plot", "figure99", *options(records=[RECORD], out="f", settings=CONFIG)])[-1], "figure99"),
    _progress("a broken line", "is damaged", lambda lines: ["{\n", *lines[1:]]),
    _progress("a changed digit", "is damaged", lambda lines: [
        lines[0].replace("1", "2", 1), *lines[1:]]),
    _progress("lines of other keys", "trace.jsonl", lambda lines: ["{}\n"]),
    Case("progress of a tuning", "a changed word", _tuning_metrics, "is damaged"),
    Case("published entry", "a record of other weights", lambda at: _publish(
        at, weights_fingerprint="0"), "measured on weights 0"),
    Case("published entry", "a record without factors", lambda at: _publish(
        at, factors=None), "factors: missing"),
    Case("published entry", "a record with other factors", lambda at: _publish(
        at, factors={"128": {
            "window": 128, "attention_factor": 1.0, "n_hat": 0, "fingerprint": "0"}}),
         "other factors than these"),
    Case("published entry", "no perplexity", lambda at: _publish(
        at, task="passkey", results={"128": PASSKEYS}, records=[
            {"length": 128, "prompts": 1, "found": 0, "trials": []}]),
         "needs a measured perplexity"),
    Case("model card", "a model that was not trained here", _card, "training.json: no such file"),
    _export("a record that is not there", "no such file", lambda at: ["none.json"]),
    _export("a record that is a list", "expected an object", lambda at: [at.write("a.json", "[]")]),
    _export("a record without results", "results: missing", _own_record(results=None)),
    _export("a record without numbers", RECORD, _own_record(results={"128": {}})),
    _export("metrics that are not there", "cannot be read", lambda at: [], ["none.jsonl"]),
]  # fmt: skip
