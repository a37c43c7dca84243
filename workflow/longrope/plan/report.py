"""
A plan as text: one line a group of like jobs, the totals, what does not fit, and the paper.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from longrope.config import Config
from longrope.errors import UserError
from longrope.parallel.launch import cores as own_cores
from longrope.plan.estimate import Estimate, estimate_study
from longrope.plan.machine import GIB, README_CORE, Machine, find_machine
from longrope.plan.paper import Beside, beside_paper, disagreements
from longrope.plan.schedule import chains, simulate
from longrope.plan.simulation import EFFICIENCY, simulation, study_tasks
from longrope.plan.text import aligned, hours_text
from longrope.study import corpus_of
from longrope.windows import window_label

FIRST = ("job", "model, weights", "of", "at", "jobs", "tokens", "FLOPs", "GiB")
NAMED = 3  # methods that a line names
ORDER = ("import", "pretrain", "tokenize", "derive", "search", "finetune", "assemble", "evaluate")


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """Like jobs: the same rule, weights and amount of work."""

    estimates: tuple[Estimate, ...]

    @property
    def cells(self) -> list[str]:
        """The cells of the table."""
        first, all_ = self.estimates[0], self.estimates
        job, work = first.job, first.work
        names = list(dict.fromkeys(each.job.name for each in all_))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        of = ", ".join(names[:NAMED]) + more
        if job.evaluation:
            of = f"{job.evaluation}: {of}"
        several = len({each.job.weights for each in all_}) > 1
        place = job.model if several or not job.model else f"{job.model}/{job.weights}"
        hours = sum(each.hours for each in all_)
        return [
            job.rule,
            place,
            of,
            work.what,
            str(len(all_)),
            _short(sum(each.work.tokens for each in all_)),
            _short(sum(each.work.flops for each in all_), power=True),
            _gib(max(each.memory for each in all_)),
            str(first.gpus),
            hours_text(hours),
            _hours(hours * first.gpus),
            _gib(sum(each.work.disk for each in all_)),
        ]


def plan(
    config: Config,
    machine: Machine,
    target: str = "all",
    simulated: Sequence[int] = (),
    efficiency: float = EFFICIENCY,
) -> tuple[str, list[Estimate]]:
    """The plan of a study as text, and what it is made of; `simulated` are numbers of GPUs whose
    schedules are simulated, `efficiency` that of jobs which are spread."""
    estimates = estimate_study(config, machine, target)
    parts = [
        f"The jobs of the target `{target}` on {machine.name}: {machine.memory / GIB:.0f} GiB,"
        f" {machine.flops / 1e12:.4g} TFLOP/s at best, {machine.reached}.",
        aligned([_header(machine), *(line.cells for line in _lines(estimates))]),
        _totals(config, estimates, machine),
    ]
    if notes := _notes(config, estimates, machine):
        parts.append("\n".join(notes))
    if simulated:
        parts.append(simulation(config, estimates, simulated, efficiency))
    if found := beside_paper(config, estimates, machine):
        parts.append(_paper(found))
    return "\n\n".join(parts) + "\n", estimates


def check_fits(estimates: list[Estimate], machine: Machine) -> None:
    """Raise one UserError that names the jobs that need more GPUs than a job may have."""
    large = [each for each in estimates if each.gpus > machine.gpus or not each.holds]
    if not large:
        return
    worst = sorted(large, key=lambda each: -each.work.memory)
    lines = [
        f"{_name(each)} takes {each.work.memory / GIB:,.1f} GiB: {_needs(each, machine.name)}"
        for each in worst[:5]
    ]
    if len(worst) > 5:
        lines.append(f"and {len(worst) - 5} jobs more")
    raise UserError(
        f"the plan does not fit: {machine.name} has {machine.memory / GIB:,.1f} GiB, of which"
        f" {machine.usable / GIB:,.1f} can be used, and a job may have {machine.gpus}:"
        + "".join(f"\n  {line}" for line in lines)
        + _remedy(large, machine)
        + "\n  name a larger GPU (gpu), allow a job more of them (gpus), or shorten windows in the"
        " configuration; `longrope plan` shows every job"
    )


def _needs(estimate: Estimate, name: str) -> str:
    if estimate.holds:
        return f"{estimate.gpus} of {name}"
    if estimate.work.over is None:
        return "it cannot be shared by several GPUs"
    return "its weights lie whole on every GPU, so no number of them holds it"


def _remedy(large: list[Estimate], machine: Machine) -> str:
    """Which tunings would fit with activation checkpointing."""
    keys = [_key(each) for each in large if 0 < each.lighter <= machine.gpus]
    return f"\n  these fit with `checkpointing: true`: {', '.join(keys)}" if keys else ""


def _key(estimate: Estimate) -> str:
    return f"models.{estimate.job.model}.tunings.{estimate.job.weights}"


def check_study(config: Config, gpu: str, gpus: int = 1, memory: float | None = None) -> None:
    """Raise UserError if a job of the study does not fit on what the profile states."""
    if not isinstance(gpus, int) or not isinstance(memory, int | float | None):
        raise UserError(f"gpus = {gpus!r}, gpu_memory = {memory!r}: write whole numbers, of GiB")
    machine = find_machine(gpu, memory=memory, flops=1.0, gpus=gpus)  # its speed does not matter
    check_fits(estimate_study(config, machine), machine)


def _name(estimate: Estimate) -> str:
    job = estimate.job
    place = f"{job.rule} {job.model}/{job.weights}"
    name = f"{job.evaluation} {job.name}" if job.evaluation else job.name
    return f"{place}, {name} at {estimate.work.what}"


def _lines(estimates: list[Estimate]) -> Iterable[Line]:
    """Jobs that differ in name only become one line; those that forward nothing, by rule."""
    groups: dict[tuple, list[Estimate]] = {}
    for each in estimates:
        job, work = each.job, each.work
        amount = (job.weights, work) if work.tokens or work.disk or work.seconds else ()
        key = (job.rule, job.model, job.evaluation, *amount)
        groups.setdefault(key, []).append(each)
    models = list(dict.fromkeys(key[1] for key in groups if key[1]))

    def place(group: list[Estimate]) -> tuple[int, int]:
        job = group[0].job
        stage = job.rule.split("_")[0]
        model = models.index(job.model) if job.model else len(models)  # tables and figures last
        return model, ORDER.index(stage) if stage in ORDER else len(ORDER)

    return [Line(tuple(group)) for group in sorted(groups.values(), key=place)]


def _unit(machine: Machine) -> str:
    """What a job has one or more of."""
    return "core" if machine.is_cpu else "GPU"


def _header(machine: Machine) -> list[str]:
    unit = _unit(machine)
    return [*FIRST, f"{unit}s", "time", f"{unit}-hours", "GiB of disk"]


def _totals(config: Config, estimates: list[Estimate], machine: Machine) -> str:
    widest = max(each.gpus for each in estimates)
    chain = max(chains(study_tasks(config, estimates, widest)).values())
    hours = sum(each.hours for each in estimates)
    tokens = sum(each.work.tokens for each in estimates)
    flops = sum(each.work.flops for each in estimates)
    disk = sum(each.work.disk for each in estimates)
    gpu_hours = sum(each.hours * each.gpus for each in estimates)
    return (
        f"In all {len(estimates)} jobs: {_short(tokens)} tokens, {_short(flops, power=True)} FLOPs,"
        f" {_hours(gpu_hours)} {_unit(machine)}-hours, {_gib(disk)} GiB of disk.\n"
        f"One after the other they take {hours_text(hours)}; side by side where they"
        f" can, {hours_text(chain)}: the longest chain.\n"
        f"At most {_gib(max(each.memory for each in estimates))} GiB and"
        f" {widest} {_unit(machine)}{'s' if widest > 1 else ''} at a time in one job."
    )


def _loose(config: Config, estimates: list[Estimate]) -> list[str]:
    """Evaluations whose windows slide over a number of documents that nothing says."""
    found = {}
    for each in estimates:
        settings, name = config.models.get(each.job.model), each.job.evaluation
        asked = settings.evaluation[name] if name else None
        if asked and asked.task == "perplexity" and asked.stride:
            splits = config.corpora[asked.corpus or corpus_of(settings, "test")].splits
            if not (asked.documents or isinstance(splits.test, list) or "test" in splits.limits):
                found[name] = None
    return list(found)


def _notes(config: Config, estimates: list[Estimate], machine: Machine) -> list[str]:
    notes = []
    if any(each.gpus > 1 for each in estimates):
        notes.append(
            "Memory is that of a job on all its GPUs. Where that is more than one, each holds the"
            " weights of a model whole\nbut in a tuning; the rest and the time are taken to be"
            " parted evenly: run it with `processes` and\n`per_sequence` in a profile"
            " (docs/parallel.md); not tried on GPUs."
        )
    if lighter := [each for each in estimates if each.lighter]:
        keys = ", ".join(f"{_key(each)} ({each.lighter})" for each in lighter)
        notes.append(
            "With `checkpointing: true`, one forward pass more, these tunings need fewer GPUs (so"
            f" many): {keys}."
        )
    if alone := [each for each in estimates if not each.holds]:
        notes.append(
            "No number of these GPUs holds " + ", ".join(dict.fromkeys(map(_name, alone))) + "."
        )
    if loose := _loose(config, estimates):
        notes.append(
            "Not known before the corpus is read: over how many documents the sliding windows of"
            f" {', '.join(loose)} are\nspread. One in each is counted; several in one document cost"
            " more. `splits.limits` can say how many there are."
        )
    if machine.is_cpu:
        cores = own_cores()
        hours = simulate(study_tasks(config, estimates, cores), cores).makespan
        notes.append(
            f"On {cores} core{'s' if cores > 1 else ''}, as many as there are here, if nothing else"
            f" runs: {hours_text(hours)}. One is taken to multiply at\n{machine.flops / 1e9:.0f}"
            " GFLOP/s (measured now, unless --flops said so), and times go by that; each of the two"
            f" that the\nREADME's times are of does at {README_CORE / 1e9:.0f}."
        )
        notes.append("Cores: one of each machine of this size; memory is that of the machine.")
    return notes


def _paper(found: list[Beside]) -> str:
    rows = [["the paper states", "model, weights", "FLOPs", "its GPU-hours", "here", "it implies"]]
    rows += [
        [
            each.stated.says,
            f"{each.model}/{each.weights} {window_label(each.stated.window)}",
            _short(each.flops, power=True),
            _hours(each.stated.gpus * each.stated.hours),
            _hours(each.planned),
            f"{each.utilisation:.0%}",
        ]
        for each in found
    ]
    text = aligned(rows, left=2)
    text += "\n(It implies that share of the peak of its A100s, 312 TFLOP/s each.)"
    if problems := disagreements(found):
        text += "\n\nWhat does not fit together:\n" + "\n".join(f"- {each}" for each in problems)
    return text


def _short(value: float, power: bool = False) -> str:
    """1,234,567 as 1.23M; FLOPs as a power of ten."""
    if not value:
        return "-"
    if power:
        return f"{value:.2e}".replace("e+", "e")
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def _gib(value: float) -> str:
    """Bytes in GiB."""
    return f"{value / GIB:,.1f}" if value >= GIB / 20 else f"{value / GIB:.1g}" if value else "-"


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.1g}"
