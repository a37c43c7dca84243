"""
What a report reads: evaluation files as values and as tidy frames.

An evaluation that the configuration does not ask for, or asks for otherwise, is an error: a table
must not mix studies.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from longrope.config import Config
from longrope.config.evaluation import EvaluationSettings, protocol_of
from longrope.errors import UserError, unknown_name
from longrope.evaluation_file import read_evaluation
from longrope.study import lengths_of
from longrope.windows import parse_window, window_label


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
    configuration does not have, for lengths, amounts or a protocol that it does not ask for, and
    for two files of the same.
    """
    found: dict[tuple[int, ...], Evaluation] = {}
    for path in paths:
        record = read_evaluation(path)
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
        amounts = {parse_window(key): each for key, each in record["amounts"].items()}
        place = _place(config, evaluation, path)
        if differences := list(_differences(config, evaluation, amounts)):
            raise UserError(
                f"{path}: not measured as this configuration asks for, {'; '.join(differences)};"
                " run the evaluation again"
            )
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


def _differences(config: Config, evaluation: Evaluation, amounts: dict[int, int]) -> Iterator[str]:
    """What was measured and what is asked for, where the two differ."""
    settings = config.models[evaluation.model]
    asked = settings.evaluation[evaluation.name]
    wanted = lengths_of(settings, evaluation.weights, evaluation.method, asked)
    if amounts != wanted:
        yield f"{_amounts(amounts)} instead of {_amounts(wanted)}"
    for key, value in _protocol(asked).items():
        if (found := evaluation.protocol.get(key)) != value:
            yield f"{key} {found} instead of {value}"


def _protocol(asked: EvaluationSettings) -> dict:
    """What an evaluation's protocol must say, as far as the configuration decides it."""
    match asked.task:
        case "perplexity":
            return protocol_of(asked)
        case "passkey":
            return {"key": asked.key}
        case "ruler":
            return {"needles": asked.needles}
        case "benchmarks":
            return {"shots": {name: asked.shots_of(name) for name in asked.benchmarks}}


def _amounts(amounts: dict[int, int]) -> str:
    """`24 at 1k, 6 at 4k`."""
    return ", ".join(f"{each} at {window_label(at)}" for at, each in sorted(amounts.items()))


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
