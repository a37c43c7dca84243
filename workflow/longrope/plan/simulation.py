"""
What a study takes on so many GPUs, as text: `longrope plan --simulate 1 8 64`.
"""

from collections.abc import Sequence

from longrope.config import Config
from longrope.plan.estimate import Estimate
from longrope.plan.jobs import job_that_makes
from longrope.plan.schedule import Schedule, Task, simulate, spread, tasks_of
from longrope.plan.text import aligned, hours_text

EFFICIENCY = 0.8  # of a job that is spread over several GPUs, assumed
SPREAD = {  # what `longrope --processes` can spread, and over how many times its GPUs
    "search_factors": 8,
    "finetune_model": 8,
    "evaluate_perplexity": 8,
    "evaluate_passkey": 8,
}


def simulation(config: Config, estimates: Sequence[Estimate], counts: Sequence[int]) -> str:
    """A table of schedules, and which kind of job is best spread first."""
    rows = [["GPUs", "jobs as planned", "idle", "spread", "idle", "GPU-hours", "first to spread"]]
    for gpus in counts:
        tasks = study_tasks(config, estimates, gpus)
        plain, wide = simulate(tasks, gpus), simulate(spread(tasks, SPREAD, EFFICIENCY, gpus), gpus)
        rows.append(
            [
                str(gpus),
                hours_text(plain.makespan),
                f"{plain.idle:.0%}",
                hours_text(wide.makespan),
                f"{wide.idle:.0%}",
                f"{plain.gpu_hours:.3g}",
                _first(tasks, gpus, plain),
            ]
        )
    return (
        f"Simulated: a job begins when its inputs and GPUs are there. Spread: searches, tunings and"
        f" evaluations over\nup to {max(SPREAD.values())} times the GPUs that hold them, at"
        f" {EFFICIENCY:.0%} of a perfect speed-up (assumed).\n\n" + aligned(rows, left=0)
    )


def study_tasks(config: Config, estimates: Sequence[Estimate], gpus: int) -> list[Task]:
    """The jobs of a study for the scheduler."""
    paths = {path for each in estimates for path in each.job.inputs}
    producers = {path: job_that_makes(config, path).output for path in paths}
    return tasks_of(estimates, producers, gpus)


def _first(tasks: Sequence[Task], gpus: int, plain: Schedule) -> str:
    """The kind of job whose spreading alone shortens the whole the most, with what then remains."""
    ends = {
        rule: simulate(spread(tasks, {rule: times}, EFFICIENCY, gpus), gpus).makespan
        for rule, times in SPREAD.items()
    }
    best = min(ends, key=ends.get)
    if ends[best] >= 0.99 * plain.makespan:
        return "none: all GPUs are busy"
    return f"{best}: {hours_text(ends[best])}"
