"""
What a report reads, and what it calls it: evaluation files as values and as tidy frames, the
paper's numbers, and the words that people read instead of `base`, `yarn-on-tuned`.

An evaluation that the configuration does not ask for is an error: a table must not mix studies.
"""

import csv
import math
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from longrope.config import BASE, Config, ModelSettings
from longrope.errors import UserError, unknown_name
from longrope.files import read_json
from longrope.report.statistics import wilson
from longrope.study import ON_TUNED
from longrope.windows import parse_window, window_label

SCHEMA = 1  # of evaluation files
NAMES = {  # as their authors write them
    "none": "original RoPE",
    "pi": "PI",
    "ntk": "NTK",
    "theta": "raised base",
    "yarn": "YaRN",
    "llama3": "Llama 3",
    "ntk-critical": "NTK at the critical pair",
    "yarn-critical": "YaRN at the critical pair",
    "mrrope-pro": "MrRoPE-Pro",
    "mrrope-uni": "MrRoPE-Uni",
    "cope": "CoPE",
    "drope": "DroPE",
    "longrope": "LongRoPE",
    "longlora": "LongLoRA",
    "codellama": "CodeLlama",
    "mistrallite": "MistralLite",
    "together": "Together",
    "original": "original",
}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation file: one task, checkpoint and method, at all of its lengths."""

    model: str
    weights: str  # base, or a tuning
    method: str
    protocol: dict  # as the file has it: stride, or kind of key
    factors: dict[int, dict]  # by length: window, attention_factor, fingerprint, ...
    records: tuple[dict, ...]  # as the file has them
    weights_fingerprint: str

    @property
    def lengths(self) -> list[int]:
        """The lengths that were evaluated, rising."""
        return sorted(self.factors)

    def at(self, length: int) -> list[dict]:
        """The records of one length."""
        return [record for record in self.records if record["length"] == length]

    def runs_as(self, other: "Evaluation", length: int) -> bool:
        """Whether both ran the same weights with the same factors at a length."""
        return (self.weights_fingerprint, self.factors[length]["fingerprint"]) == (
            other.weights_fingerprint,
            other.factors[length]["fingerprint"],
        )


def read_evaluations(config: Config, paths: Iterable[Path], task: str) -> list[Evaluation]:
    """Read the files of one task, in the order of the configuration.

    Raises UserError for a file of another task, a model, weights or method that the configuration
    does not evaluate, and for two files of the same.
    """
    found: dict[tuple[int, int, int], Evaluation] = {}
    for path in paths:
        record = read_json(path)
        try:
            if (record["task"], record["schema"]) != (task, SCHEMA):
                raise UserError(
                    f"{path}: schema {record['schema']} of {record['task']!r}, expected schema"
                    f" {SCHEMA} of {task!r}"
                )
            evaluation = Evaluation(
                model=record["model"],
                weights=record["weights"],
                method=record["method"],
                protocol=record["protocol"],
                factors={parse_window(key): each for key, each in record["factors"].items()},
                records=tuple(record["records"]),
                weights_fingerprint=record["weights_fingerprint"],
            )
        except KeyError as error:
            raise UserError(f"{path}: the key {error} is missing") from None
        place = _place(config, evaluation, task, path)
        if place in found:
            raise UserError(f"{path}: a second evaluation of the same method; keep one of them")
        found[place] = evaluation
    return [found[place] for place in sorted(found) if found[place].factors]  # at some length


def _place(config: Config, evaluation: Evaluation, task: str, path: Path) -> tuple[int, int, int]:
    """Where the configuration names an evaluation: position of model, weights and method."""
    place, names = [], config.models
    for kind in ("model", "weights", "method"):
        name = getattr(evaluation, kind)
        if name not in names:
            raise UserError(f"{path}: not in this configuration: {unknown_name(kind, name, names)}")
        place.append(list(names).index(name))
        if kind == "model":
            names = getattr(config.models[name].evaluation, task).methods
        elif kind == "weights":
            names = names[name]
    return tuple(place)


def chosen(
    evaluations: Iterable[Evaluation],
    model: str,
    weights: Container[str],
    methods: Container[str] | None = None,
) -> list[Evaluation]:
    """Those of some weights of a model, with some methods or with any, in their order."""
    return [
        each
        for each in evaluations
        if each.model == model
        and each.weights in weights
        and (methods is None or each.method in methods)
    ]


# --- frames -----------------------------------------------------------------------------------


def perplexities(evaluations: Iterable[Evaluation]) -> pd.DataFrame:
    """One row per model, weights, method and length.

    `perplexity` is exp(mean loss over all scored tokens). `perplexity_document_mean` is the mean
    of every document's own, for comparison with papers that average so.
    """
    rows = []
    for each in evaluations:
        for length in each.lengths:
            records = each.at(length)
            tokens = sum(record["tokens"] for record in records)
            loss = sum(record["tokens"] * record["loss"] for record in records) / tokens
            own = [math.exp(record["loss"]) for record in records]
            rows.append(
                _key(each, length)
                | {
                    "perplexity": math.exp(loss),
                    "perplexity_document_mean": sum(own) / len(own),
                    "tokens": tokens,
                    "windows": sum(len(record["windows"]) for record in records),
                    "documents": len(records),
                    "joined": sum(record["joined"] for record in records),
                    "stride": each.protocol["stride"],
                }
            )
    columns = ["perplexity", "perplexity_document_mean", "tokens", "windows", "documents"]
    return _frame(rows, [*columns, "joined", "stride"])


def accuracies(evaluations: Iterable[Evaluation]) -> pd.DataFrame:
    """One row per model, weights, method and length: passkeys found, with a Wilson interval."""
    rows = []
    for each in evaluations:
        for length in each.lengths:
            (record,) = each.at(length)
            low, high = wilson(record["found"], record["prompts"])
            rows.append(
                _key(each, length)
                | {
                    "accuracy": record["found"] / record["prompts"],
                    "found": record["found"],
                    "prompts": record["prompts"],
                    "low": low,
                    "high": high,
                }
            )
    return _frame(rows, ["accuracy", "found", "prompts", "low", "high"])


def _key(evaluation: Evaluation, length: int) -> dict:
    factors = evaluation.factors[length]
    return {
        "model": evaluation.model,
        "weights": evaluation.weights,
        "method": evaluation.method,
        "length": length,
        "factors_window": factors["window"],
        "attention_factor": factors["attention_factor"],
    }


def _frame(rows: list[dict], values: list[str]) -> pd.DataFrame:
    """A frame that has its columns also when it has no rows."""
    keys = ["model", "weights", "method", "length", "factors_window", "attention_factor"]
    return pd.DataFrame(rows, columns=[*keys, *values])


# --- the paper --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row of one of the paper's tables: perplexities as printed, by length."""

    label: str
    protocol: str  # data set and setting
    cells: dict[int, str]


def paper_rows(path: Path, table: str, model: str) -> list[PaperRow]:
    """The perplexities of a paper's table for a model; none for a model that it does not have."""
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            lines = [line for line in csv.DictReader(file) if line["table"] == table]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the paper's numbers are expected there") from None
    rows: dict[tuple[str, ...], PaperRow] = {}
    for line in lines:
        if line["base"] != model or line["metric"] != "perplexity":
            continue
        tuned, recovery = line["fine_tune_window"], "recovery" in line["setting"]
        label = _pretty(line["method"])
        label += f", tuned at {window_label(int(tuned))}" if tuned else ""
        label += f", {line['setting']}" if recovery else ""
        protocol = line["dataset"] if recovery else f"{line['dataset']}: {line['setting']}"
        row = rows.setdefault((label, protocol), PaperRow(label, protocol, {}))
        value = line["value"] if not line["bound"] else f"{float(line['value']):.0f}"
        row.cells[int(line["length"])] = line["bound"] + value
    return list(rows.values())


def _pretty(name: str) -> str:
    """longrope-2048k as LongRoPE-2048k; what is unknown stays as it is."""
    first, dash, rest = name.partition("-")
    return NAMES.get(first, first) + dash + rest


# --- labels -----------------------------------------------------------------------------------


def weights_label(weights: str) -> str:
    """What people call a checkpoint."""
    return "untuned" if weights == BASE else weights


def method_label(settings: ModelSettings, weights: str, method: str) -> str:
    """What people call a method; a formula says which window it stretches from."""
    tuning = settings.tunings.get(weights)
    if method.endswith(ON_TUNED):
        form = method.removesuffix(ON_TUNED)
        return f"{NAMES.get(form, form)} on tuned (from {window_label(tuning.window)})"
    if method in NAMES:
        own = method == "none" or (tuning and tuning.method == method)  # nothing to tell apart
        start = "" if own else f" (from {window_label(settings.original_window)})"
        return NAMES[method] + start
    match method:
        case "search":
            return "second search" if tuning else "search (LongRoPE)"
        case "extended":
            return "extended (LongRoPE)"
        case "tuned":
            return f"as tuned ({window_label(tuning.window)} factors)"
        case "longest":
            longest = max([tuning.window, *settings.extension.search])
            return f"{window_label(longest)} factors throughout"
    return method


def row_label(settings: ModelSettings, weights: str, method: str) -> str:
    """What people call a row: `untuned, YaRN (from 256)`, `longrope-2k, extended (LongRoPE)`."""
    return f"{weights_label(weights)}, {method_label(settings, weights, method)}"


def drills(settings: ModelSettings, weights: str) -> str:
    """What the tunings of some weights trained on beside text, first tuning first."""
    held: list[str] = []
    while weights != BASE:
        tuning = settings.tunings[weights]
        kinds = {kind: share for kind, share in tuning.mixture.items() if kind != "text" and share}
        held.insert(0, ", ".join(f"{share:.0%} {kind}" for kind, share in kinds.items()) or "none")
        weights = tuning.start
    return ", then ".join(dict.fromkeys(held)) or "not tuned"
