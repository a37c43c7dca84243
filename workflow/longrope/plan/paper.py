"""
The paper's own figures of cost beside the plan's, and where they cannot both be right.

resources/paper/costs.csv has what the paper states (Ding et al. 2024, sections 3.2 and 4.1,
appendix A), always of A100s with 80 GB. Hours of so many GPUs can do so many FLOPs at best; what
share of them a job's FLOPs are is the utilisation that the statement implies. Above 1 it is
impossible for the job as it is configured.
"""

import csv
from dataclasses import dataclass

from longrope.config import Config
from longrope.config.base import BASE
from longrope.errors import UserError
from longrope.paper_models import BASES, hub_name
from longrope.plan import cost
from longrope.plan.architecture import RESOURCES, architecture_of
from longrope.plan.estimate import Estimate
from longrope.plan.machine import UTILISATION, Machine
from longrope.study import search_settings
from longrope.windows import parse_window, window_label

COSTS = RESOURCES / "paper" / "costs.csv"
PEAK = 312e12  # FLOP/s of an A100
APART = 2.0  # two statements that imply utilisations further apart do not fit together


@dataclass(frozen=True, slots=True)
class Stated:
    """One figure of the paper's."""

    stage: str  # search, second search, finetune, perplexity
    model: str  # hub name; empty: of every model
    window: int
    gpus: int
    hours: float
    steps: int  # of a tuning; else 0
    says: str

    def utilisation(self, flops: float) -> float:
        """The share of the peak that so many FLOPs in the stated time are."""
        return flops / (self.gpus * self.hours * 3600 * PEAK)


@dataclass(frozen=True, slots=True)
class Beside:
    """A statement with the job that it is about."""

    stated: Stated
    model: str  # as the configuration calls it
    weights: str
    flops: float
    planned: float  # GPU-hours on the machine of the plan
    passes: int = 0  # forward passes of a search

    @property
    def utilisation(self) -> float:
        """What the statement implies."""
        return self.stated.utilisation(self.flops)


def stated_costs() -> list[Stated]:
    """Every figure, in the paper's order."""
    if not COSTS.exists():
        raise UserError(f"{COSTS} is missing: run from a clone of the repository")
    with COSTS.open(encoding="utf-8") as file:
        return [
            Stated(
                row["stage"],
                row["model"],
                parse_window(row["window"]),
                int(row["gpus"]),
                float(row["hours"]),
                int(row["steps"] or 0),
                row["says"],
            )
            for row in csv.DictReader(file)
        ]


def beside_paper(config: Config, estimates: list[Estimate], machine: Machine) -> list[Beside]:
    """Every statement about a job of the plan; none where no model is one of the paper's."""
    found = []
    for stated in stated_costs():
        for name, settings in config.models.items():
            hub = hub_name(settings)
            if hub not in BASES or stated.model not in ("", hub):
                continue
            if stated.stage == "perplexity":
                flops = cost.forward(architecture_of(name, settings), stated.window)
                planned = machine.seconds(flops) / 3600
                found.append(Beside(stated, name, BASE, flops.total, planned, 1))
                continue
            found += [
                Beside(
                    stated,
                    name,
                    each.job.weights,
                    each.work.flops,
                    each.hours * each.gpus,
                    passes,
                )
                for each in estimates
                if each.job.model == name and (passes := _matches(config, stated, each)) is not None
            ]
    return found


def _matches(config: Config, stated: Stated, estimate: Estimate) -> int | None:
    """Forward passes, if a statement is about a job (0 for a tuning); else None."""
    job = estimate.job
    settings = config.models[job.model]
    if job.rule == "finetune_model" and stated.stage == "finetune":
        tuning = settings.tunings[job.weights]
        same = (tuning.sequence_length, tuning.steps) == (stated.window, stated.steps)
        return 0 if same else None
    stage = "search" if job.weights == BASE else "second search"
    if job.rule != "search_factors" or job.name != "search" or stage != stated.stage:
        return None
    if job.window != stated.window:
        return None
    return search_settings(config, job.model, job.weights, job.name, job.window).budget.scores


def disagreements(found: list[Beside]) -> list[str]:
    """What cannot be as stated, one sentence each."""
    problems = []
    for each in found:
        place = f"{each.model}/{each.weights}, {each.stated.stage} at {_label(each)}"
        if each.utilisation > 1:
            least = each.flops / (each.stated.gpus * PEAK * 86400)
            problems.append(
                f"{place}: {each.flops:.2g} FLOPs in {_time(each.stated.hours)} on"
                f" {each.stated.gpus} A100 are {each.utilisation:.0%} of their peak. The"
                f" configured budget takes {least:.1f} days at the peak and"
                f" {least / UTILISATION:.1f} at {UTILISATION:.0%}: fewer candidates, fewer"
                " documents or more GPUs must have been used."
            )
    for single in found:
        if single.stated.stage != "perplexity":
            continue
        for search in found:
            same = search.model == single.model and search.stated.window == single.stated.window
            if same and search.stated.stage == "second search":
                problems += _against_single(search, single)
    return problems


def _against_single(search: Beside, single: Beside) -> list[str]:
    """A search's stated time against the stated time of one of its forward passes."""
    hours, allowed = search.passes * single.stated.hours, search.stated.hours
    if hours <= allowed:
        return []
    place = f"{search.model}/{search.weights}, second search at {_label(search)}"
    problems = [
        f"{place}: {search.passes} perplexities of {single.stated.hours * 60:.0f} minutes are"
        f" {hours / 24:.1f} days, the search is stated within {_time(allowed)}, which"
        f" holds {allowed / single.stated.hours:.0f} of them. Both are true only if several ran at"
        " once on fewer GPUs each, or the budget was a fraction of the configured one."
    ]
    if search.utilisation > APART * single.utilisation:
        problems.append(
            f"{place}: as a whole it implies {search.utilisation:.0%} of the peak, one of its"
            f" perplexities on the same GPUs {single.utilisation:.0%}: at most one is right."
        )
    return problems


def _label(each: Beside) -> str:
    return window_label(each.stated.window)


def _time(hours: float) -> str:
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:.2g} hours"
