"""
How long does a study take on more and more GPUs? A figure from the plan's simulation.

    python tests/benchmarks/schedule_figure.py --config config/paper.yaml --gpu a100-80gb \\
        --target study --out docs/images/schedule.png

Two lines: every job on the GPUs that hold it, and searches, tunings and evaluations spread over up
to eight times as many. Beside them two bounds: all work on all GPUs, and the longest chain of jobs.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import yaml

from longrope.checks import load_config
from longrope.plan.estimate import estimate_study
from longrope.plan.machine import find_machine
from longrope.plan.schedule import chains, simulate, spread
from longrope.plan.simulation import EFFICIENCY, SPREAD, study_tasks

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def main() -> None:
    """Simulate, draw, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--gpu", required=True, help="as for longrope plan")
    parser.add_argument("--target", default="all")
    parser.add_argument("--out", type=Path, required=True, help="a .png")
    options = parser.parse_args()
    config = load_config(yaml.safe_load(options.config.read_text()))
    estimates = estimate_study(config, find_machine(options.gpu, gpus=64), options.target)
    planned, wide, work = [], [], []
    for gpus in COUNTS:
        tasks = study_tasks(config, estimates, gpus)
        planned.append(simulate(tasks, gpus).makespan / 24)
        wide.append(simulate(spread(tasks, SPREAD, EFFICIENCY, gpus), gpus).makespan / 24)
        work.append(sum(each.hours * each.gpus for each in tasks) / gpus / 24)
        print(f"{gpus:4} GPUs: {planned[-1]:8.1f} days, spread {wide[-1]:8.1f}")
    chain = max(chains(study_tasks(config, estimates, COUNTS[-1])).values()) / 24
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(COUNTS, planned, "o-", color="#1f5a96", label="each job on the GPUs that hold it")
    axes.plot(COUNTS, wide, "s-", color="#c2571a", label="spread over up to 8 times as many")
    axes.plot(COUNTS, work, ":", color="0.4", label="all work on all GPUs")
    axes.axhline(chain, linestyle="--", color="0.4", label="longest chain of jobs")
    axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="days until all is done")
    axes.set_xticks(COUNTS, [str(each) for each in COUNTS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(options.out, dpi=150)


if __name__ == "__main__":
    main()
