"""
When the jobs of a study would run on so many GPUs: a simulation from the plan's own times.

A list scheduler, as Snakemake's is with priorities: whenever GPUs are free, of the jobs whose
inputs are there the one with the longest chain of jobs behind it begins, if its GPUs are free; else
the next one. A job holds its GPUs from its beginning to its end; nothing waits for files, queues or
other people. Jobs that need no GPU count one all the same, as the plan does.

As with any such scheduler more GPUs, or shorter jobs, can by chance end later. No schedule ends
before its longest chain or before all work is shared by all GPUs.

Spreading: the jobs of some rules run on so many times as many GPUs, and take that many times less
long, divided by an efficiency.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from longrope.errors import UserError

EFFICIENCY = 0.8  # share of a perfect speed-up that a job keeps when it is spread; assumed


@dataclass(frozen=True, slots=True)
class Task:
    """A job as the scheduler sees it."""

    name: str  # its output
    rule: str
    hours: float
    gpus: int
    after: tuple[str, ...]  # names of tasks that it waits for


@dataclass(frozen=True, slots=True)
class Run:
    """A task with when it runs."""

    task: Task
    start: float  # hours
    end: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """All tasks on so many GPUs."""

    gpus: int
    runs: tuple[Run, ...]

    @property
    def makespan(self) -> float:
        """Hours from the first beginning to the last end."""
        return max((run.end for run in self.runs), default=0.0)

    @property
    def gpu_hours(self) -> float:
        """Hours of all GPUs that are at work."""
        return sum((run.end - run.start) * run.task.gpus for run in self.runs)

    @property
    def idle(self) -> float:
        """The share of GPU-hours until the last end in which nothing runs."""
        whole = self.gpus * self.makespan
        return 1 - self.gpu_hours / whole if whole else 0.0


def simulate(tasks: Sequence[Task], gpus: int) -> Schedule:
    """Run tasks, given in an order in which they could run, on so many GPUs.

    Raises UserError if one needs more GPUs than there are.
    """
    too_large = [each for each in tasks if each.gpus > gpus]
    if too_large:
        worst = max(too_large, key=lambda each: each.gpus)
        raise UserError(f"{worst.name} needs {worst.gpus} GPUs by the plan, there are {gpus}")
    behind = chains(tasks)
    waiting = {each.name: set(each.after) for each in tasks}
    ready = [each for each in tasks if not waiting[each.name]]
    now, free, running, runs = 0.0, gpus, [], []
    while ready or running:
        ready.sort(key=lambda each: -behind[each.name])
        for task in [*ready]:
            if task.gpus <= free:
                ready.remove(task)
                free -= task.gpus
                runs.append(Run(task, now, now + task.hours))
                heapq.heappush(running, (now + task.hours, len(runs), task))
        now = running[0][0]
        while running and running[0][0] == now:
            *_, done = heapq.heappop(running)
            free += done.gpus
            for task in tasks:
                if done.name in waiting[task.name]:
                    waiting[task.name].remove(done.name)
                    if not waiting[task.name]:
                        ready.append(task)
    return Schedule(gpus, tuple(runs))


def chains(tasks: Sequence[Task]) -> dict[str, float]:
    """Hours from the beginning of each task to the end of the longest chain that it begins."""
    followed: dict[str, list[Task]] = {each.name: [] for each in tasks}
    for task in tasks:
        for name in task.after:
            followed[name].append(task)
    longest: dict[str, float] = {}
    for task in reversed(tasks):
        after = [longest[each.name] for each in followed[task.name]]
        longest[task.name] = task.hours + max(after, default=0.0)
    return longest


def longest(tasks: Sequence[Task]) -> list[Task]:
    """The longest chain of tasks, first to last: they alone say how soon all can be done."""
    behind, chain = chains(tasks), []
    following = list(tasks)
    while following:
        chain.append(max(following, key=lambda each: behind[each.name]))
        following = [each for each in tasks if chain[-1].name in each.after]
    return chain


def spread(
    tasks: Sequence[Task], times: Mapping[str, int], efficiency: float, gpus: int
) -> list[Task]:
    """The tasks with the jobs of some rules on `times[rule]` times as many GPUs, if there are so
    many; each then takes as many times less long, times `efficiency`."""
    return [
        Task(
            each.name,
            each.rule,
            each.hours / (factor * efficiency) if factor > 1 else each.hours,
            each.gpus * factor,
            each.after,
        )
        for each in tasks
        for factor in [min(times.get(each.rule, 1), max(1, gpus // each.gpus))]
    ]


def tasks_of(estimates, producers: Mapping[str, str], gpus: int) -> list[Task]:
    """The jobs of a plan as tasks, `producers` giving the output of the job that makes a file.

    A job that would need more GPUs than there are takes all of them for as many GPU-hours, as if
    its memory were there.
    """
    made = []
    for each in estimates:
        after = tuple(dict.fromkeys(producers[path] for path in each.job.inputs))
        held = min(each.gpus, gpus)
        made.append(
            Task(each.job.output, each.job.rule, each.hours * each.gpus / held, held, after)
        )
    return made
