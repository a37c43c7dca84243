"""
What a report reads, and what it calls it: evaluation files as values and as tidy frames, the
paper's numbers, and the words that people read instead of `base`, `yarn-on-tuned`.

An evaluation that the configuration does not ask for is an error: a table must not mix studies.
"""

import csv
import math
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from longrope.baselines import is_closed_form, parts_of
from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.errors import UserError, unknown_name
from longrope.files import read_json
from longrope.study import ON_TUNED, chain_of
from longrope.windows import parse_window, window_label

SCHEMA = 2  # of evaluation files
NAMES = {  # as their authors write them
    "none": "original RoPE",
    "pi": "PI",
    "ntk": "NTK",
    "theta": "raised base",
    "yarn": "YaRN",
    "llama3": "Llama 3",
    "ntk-critical": "NTK at the theoretical critical pair",
    "yarn-critical": "YaRN at the theoretical critical pair",
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

    task: str  # perplexity, passkey, ...
    model: str
    name: str  # of the evaluation in the configuration
    weights: str  # base, or a tuning
    method: str
    protocol: dict  # as the file has it: stride, or kind of key
    factors: dict[int, dict]  # by length: window, attention_factor, fingerprint, ...
    results: dict[int, dict]  # by length, as the file has them
    records: tuple[dict, ...]  # likewise
    weights_fingerprint: str
    own_rope: bool  # whether the model keeps the RoPE that it comes with

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


def read_evaluations(config: Config, paths: Iterable[Path]) -> list[Evaluation]:
    """Read evaluation files, in the order of the configuration.

    Raises UserError for a file of a model, an evaluation, weights or a method that the
    configuration does not have, and for two files of the same.
    """
    found: dict[tuple[int, ...], Evaluation] = {}
    for path in paths:
        record = read_json(path)
        try:
            if record["schema"] != SCHEMA:
                raise UserError(f"{path}: schema {record['schema']}, expected schema {SCHEMA}")
            evaluation = Evaluation(
                task=record["task"],
                model=record["model"],
                name=record["evaluation"],
                weights=record["weights"],
                method=record["method"],
                protocol=record["protocol"],
                factors={parse_window(key): each for key, each in record["factors"].items()},
                results={parse_window(key): each for key, each in record["results"].items()},
                records=tuple(record["records"]),
                weights_fingerprint=record["weights_fingerprint"],
                own_rope=_keeps_its_rope(config, record["model"]),
            )
        except KeyError as error:
            raise UserError(f"{path}: the key {error} is missing") from None
        place = _place(config, evaluation, path)
        if place in found:
            raise UserError(f"{path}: a second evaluation of the same method; keep one of them")
        found[place] = evaluation
    return [found[place] for place in sorted(found) if found[place].factors]  # at some length


def _keeps_its_rope(config: Config, model: str) -> bool:
    return model in config.models and config.models[model].rope == "own"


def _place(config: Config, evaluation: Evaluation, path: Path) -> tuple[int, ...]:
    """Where the configuration names an evaluation: position of model, name, weights and method."""
    settings = config.models.get(evaluation.model)
    asked = settings and settings.evaluation.get(evaluation.name)
    methods = asked.methods if asked and asked.task == evaluation.task else {}
    place = []
    for kind, name, known in (
        ("model", evaluation.model, config.models),
        ("evaluation", evaluation.name, settings.evaluation if settings else ()),
        ("weights", evaluation.weights, methods),
        ("method", evaluation.method, methods.get(evaluation.weights, ())),
    ):
        if name not in known:
            raise UserError(f"{path}: not in this configuration: {unknown_name(kind, name, known)}")
        place.append(list(known).index(name))
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


def of_task(evaluations: Iterable[Evaluation], task: str) -> list[Evaluation]:
    """Those of one task, in their order."""
    return [each for each in evaluations if each.task == task]


# --- frames -----------------------------------------------------------------------------------


def perplexities(evaluations: Iterable[Evaluation]) -> pd.DataFrame:
    """One row per model, evaluation, weights, method and length, with what the records come to."""
    columns = ["perplexity", "perplexity_document_mean", "tokens", "windows", "documents"]
    return _frame(evaluations, [*columns, "joined", "stride"])


def accuracies(evaluations: Iterable[Evaluation]) -> pd.DataFrame:
    """The same of passkeys found, with a Wilson interval."""
    return _frame(evaluations, ["accuracy", "found", "prompts", "low", "high"])


def _frame(evaluations: Iterable[Evaluation], values: list[str]) -> pd.DataFrame:
    """A frame that has its columns also when it has no rows."""
    rows = [
        {"model": each.model, "evaluation": each.name, "weights": each.weights}
        | {"method": each.method, "length": length}
        | {key: each.factors[length][key] for key in ("attention_factor", "n_hat")}
        | {"factors_window": each.factors[length]["window"], "stride": each.protocol.get("stride")}
        | each.results[length]
        for each in evaluations
        for length in each.lengths
    ]
    keys = ["model", "evaluation", "weights", "method", "length", "factors_window"]
    return pd.DataFrame(rows, columns=[*keys, "attention_factor", "n_hat", *values])


# --- the paper --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row of one of the paper's tables, its cells as printed."""

    label: str
    protocol: str  # data set and setting
    cells: dict[str, str]  # by column


def paper_numbers(path: Path, table: str, model: str) -> list[dict[str, str]]:
    """The numbers of a paper's table for a model, one a line; none for a model it does not have.

    The keys are the columns of resources/paper/tables.csv, and `printed`, the number as it is
    printed there.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            lines = [line for line in csv.DictReader(file) if line["table"] == table]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the paper's numbers are expected there") from None
    return [line | {"printed": _printed(line)} for line in lines if line["base"] == model]


def _printed(line: dict[str, str]) -> str:
    """As the paper prints it; a bound is a power of ten there."""
    if line["bound"]:
        return f"{line['bound']}10^{round(math.log10(float(line['value'])))}"
    return line["value"]


def paper_rows(
    numbers: Iterable[dict[str, str]],
    label: Callable[[dict[str, str]], str],
    column: Callable[[dict[str, str]], str],
) -> list[PaperRow]:
    """Numbers as rows: those of one label, data set and setting stand in one row."""
    rows: dict[tuple[str, str], PaperRow] = {}
    for line in numbers:
        where = f"{line['dataset']}: {line['setting']}"
        row = rows.setdefault((label(line), where), PaperRow(label(line), where, {}))
        row.cells[column(line)] = line["printed"]
    return list(rows.values())


def paper_method(line: dict[str, str]) -> str:
    """What a line's method is called, and what it was tuned at: `YaRN-128k, tuned at 128k`."""
    tuned = line["fine_tune_window"]
    return _pretty(line["method"]) + (f", tuned at {window_label(int(tuned))}" if tuned else "")


def paper_length(line: dict[str, str]) -> str:
    """The label of a line's length."""
    return window_label(int(line["length"]))


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
    if settings.rope == "own":
        return "own RoPE"
    tuning = settings.tunings.get(weights)
    if method.endswith(ON_TUNED):
        form = method.removesuffix(ON_TUNED)
        return f"{_form_label(form)} on tuned (from {window_label(tuning.window)})"
    if is_closed_form(method):
        own = method == "none" or (tuning and tuning.method == method)  # nothing to tell apart
        start = "" if own else f" (from {window_label(settings.original_window)})"
        return _form_label(method) + start
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


def _form_label(method: str) -> str:
    form, pair, n_hat = parts_of(method)
    name = NAMES[form]
    if pair is not None:
        name = name.replace("the theoretical critical pair", f"pair {pair}")
    return name if n_hat is None else f"{name}, n_hat {n_hat}"


def row_label(settings: ModelSettings, weights: str, method: str) -> str:
    """What people call a row: `untuned, YaRN (from 256)`, `longrope-2k, extended (LongRoPE)`."""
    state = "as published" if settings.rope == "own" else weights_label(weights)
    return f"{state}, {method_label(settings, weights, method)}"


def drills(settings: ModelSettings, weights: str) -> str:
    """What the tunings of some weights trained on beside text, first tuning first."""
    if settings.rope == "own":
        return "not known"
    held: list[str] = []
    for name in chain_of(settings, weights):
        mixture = settings.tunings[name].mixture
        kinds = {kind: share for kind, share in mixture.items() if kind != "text" and share}
        held.append(", ".join(f"{share:.0%} {kind}" for kind, share in kinds.items()) or "none")
    return ", then ".join(dict.fromkeys(held)) or "not tuned"
