"""
What a study takes on so many GPUs, as text: `longrope plan --simulate 1 8 64`.

Three schedules are compared: every job on the GPUs that hold it; one kind of job spread over 2, 4
or 8 times as many; all that can be spread. Of the last two the best is shown, which may be none: on
few GPUs spreading costs its inefficiency, and a wide job waits for its GPUs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from longrope.config import Config
from longrope.errors import UserError
from longrope.plan.estimate import Estimate
from longrope.plan.jobs import job_that_makes
from longrope.plan.schedule import EFFICIENCY, Schedule, Task, simulate, spread, tasks_of
from longrope.plan.text import aligned, hours_text

TIMES = (2, 4, 8)  # as many GPUs as hold a job
SPREAD_AS = {  # what `longrope --processes` can spread -> how it is called here
    "finetune_model": "tunings",
    "search_factors": "searches",
    "evaluate_perplexity": "perplexities",
    "evaluate_passkey": "passkeys",
}
WORTH = 0.99  # of the makespan: what shortens it by less is no gain


@dataclass(frozen=True, slots=True)
class Spread:
    """A schedule with the jobs of some rules on so many times as many GPUs."""

    rules: tuple[str, ...]
    times: int  # 1 where no spreading shortens it
    schedule: Schedule

    @property
    def text(self) -> str:
        """What it takes, and how often over."""
        if self.times == 1:
            return "no gain"
        return f"x{self.times}: {hours_text(self.schedule.makespan)}"


def simulation(
    config: Config,
    estimates: Sequence[Estimate],
    counts: Sequence[int],
    efficiency: float = EFFICIENCY,
) -> str:
    """A table of schedules, and which kind of job is best spread first."""
    if not 0 < efficiency <= 1:
        raise UserError(f"efficiency {efficiency:g}: it is a share, above 0 and at most 1")
    use = ["GPU-hours", "idle"]
    rows = [["GPUs", "too large", "as planned", *use, "first to spread", "all spread", *use]]
    for gpus in counts:
        tasks = study_tasks(config, estimates, gpus)
        plain = simulate(tasks, gpus)
        one, every = (
            first_spread(tasks, plain, efficiency),
            best_spread(tasks, plain, SPREAD_AS, efficiency),
        )
        name = "" if one.times == 1 else f"{SPREAD_AS[one.rules[0]]} "
        rows.append(
            [
                str(gpus),
                str(sum(each.gpus > gpus for each in estimates)),
                hours_text(plain.makespan),
                *_use(plain),
                name + one.text,
                every.text,
                *_use(every.schedule),
            ]
        )
    return (
        "Simulated: a job begins when its inputs and GPUs are there. Spread: on 2, 4 or 8 times the"
        f" GPUs that hold\nit, at {efficiency:.0%} of a perfect speed-up (assumed); one kind of job"
        " alone, then all kinds. Jobs that are too large\nfor so many GPUs are counted as if they"
        " fitted.\n\n" + aligned(rows, left=0)
    )


def _use(schedule: Schedule) -> list[str]:
    return [f"{schedule.gpu_hours:,.0f}", f"{schedule.idle:.0%}"]


def study_tasks(config: Config, estimates: Sequence[Estimate], gpus: int) -> list[Task]:
    """The jobs of a study for the scheduler."""
    paths = {path for each in estimates for path in each.job.inputs}
    producers = {path: job_that_makes(config, path).output for path in paths}
    return tasks_of(estimates, producers, gpus)


def best_spread(
    tasks: Sequence[Task], plain: Schedule, rules: Iterable[str], efficiency: float = EFFICIENCY
) -> Spread:
    """These rules spread so far that all is done the soonest; as planned if nothing is gained."""
    rules, gpus = tuple(rules), plain.gpus
    found = [
        Spread(
            rules,
            times,
            simulate(spread(tasks, dict.fromkeys(rules, times), efficiency, gpus), gpus),
        )
        for times in TIMES
    ]
    best = min(found, key=lambda each: each.schedule.makespan)
    gains = best.schedule.makespan < WORTH * plain.makespan
    return best if gains else Spread(rules, 1, plain)


def first_spread(tasks: Sequence[Task], plain: Schedule, efficiency: float = EFFICIENCY) -> Spread:
    """The one kind of job whose spreading shortens the whole the most."""
    each_alone = [best_spread(tasks, plain, [rule], efficiency) for rule in SPREAD_AS]
    return min(each_alone, key=lambda each: each.schedule.makespan)
