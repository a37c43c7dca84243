"""
How long does a study take on more and more GPUs? A figure from the plan's simulation.

    python tests/benchmarks/schedule_figure.py --config config/paper.yaml --gpu a100-80gb \\
        --target study --out docs/images/schedule.png

Three lines: every job on the GPUs that hold it; one kind of job spread over 2, 4 or 8 times as
many, the best; all that can be spread, the best. Beside them two bounds that no schedule of the
jobs as planned beats: all work on all GPUs, and the longest chain of jobs, which is printed.
"""

import argparse
from pathlib import Path

import yaml

from longrope.checks import load_config
from longrope.plan.estimate import estimate_study
from longrope.plan.machine import find_machine
from longrope.plan.schedule import chains, longest, simulate
from longrope.plan.simulation import SPREAD_AS, best_spread, first_spread, study_tasks

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DAYS = (5, 10, 20, 50, 100, 200, 500, 1000)


def main() -> None:
    """Simulate, draw, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--gpu", required=True, help="as for longrope plan")
    parser.add_argument("--target", default="all")
    parser.add_argument("--out", type=Path, required=True, help="a .png")
    options = parser.parse_args()
    config = load_config(yaml.safe_load(options.config.read_text()))
    estimates = estimate_study(config, find_machine(options.gpu), options.target)
    planned, one, every, work = [], [], [], []
    for gpus in COUNTS:
        tasks = study_tasks(config, estimates, gpus)
        plain = simulate(tasks, gpus)
        first, all_ = first_spread(tasks, plain), best_spread(tasks, plain, SPREAD_AS)
        planned.append(plain.makespan / 24)
        one.append(first.schedule.makespan / 24)
        every.append(all_.schedule.makespan / 24)
        work.append(plain.gpu_hours / gpus / 24)
        name = SPREAD_AS[first.rules[0]] if first.times > 1 else "nothing alone"
        print(f"{gpus:4} GPUs: {planned[-1]:7.1f} days; {name} {first.text}; all {all_.text}")
    whole = study_tasks(config, estimates, max(each.gpus for each in estimates))
    print("The longest chain:")
    for task in longest(whole):
        print(f"  {task.hours / 24:6.1f} days on {task.gpus}: {task.name}")
    chain = max(chains(whole).values()) / 24
    draw(options.out, chain, {"planned": planned, "one": one, "every": every, "work": work})


def draw(path: Path, chain: float, days: dict[str, list[float]]) -> None:
    """Days over GPUs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(
        COUNTS, days["planned"], "o-", color="#1f5a96", label="each job on the GPUs that hold it"
    )
    axes.plot(COUNTS, days["one"], "^-", color="#4f8f3a", label="one kind of job spread")
    axes.plot(COUNTS, days["every"], "s-", color="#c2571a", label="all kinds spread")
    axes.plot(COUNTS, days["work"], ":", color="0.4", label="all work on all GPUs")
    axes.axhline(chain, linestyle="--", color="0.4", label="longest chain of jobs")
    axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="days until all is done")
    axes.set_xticks(COUNTS, [str(each) for each in COUNTS])
    shown = [each for each in DAYS if each >= min(map(min, days.values()))]
    axes.set_yticks(shown, [str(each) for each in shown])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
