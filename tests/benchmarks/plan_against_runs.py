"""
How far is the plan from what runs took?

    python tests/benchmarks/plan_against_runs.py FOLDER --flops RATE [--config FILE]

FOLDER is where snakemake ran: its logs/ hold how long each job took, its results/ how long each
score of a search did. RATE is what one core multiplies at best, in FLOP/s (`longrope plan --gpu
cpu` measures it and prints it). Prints the jobs of at least `--least` seconds (20) as a table in
Markdown: planned and measured seconds, and their ratio. A search that other work on the machine
slowed down shows it in its own trace: its last column counts every score as the fastest tenth.

A job that ran with other settings than the configuration has, or that went on from the middle, is
left out and named.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from longrope.checks import load_config
from longrope.config.training import TuningStage
from longrope.files import read_json, read_lines
from longrope.plan.estimate import START, Estimate, estimate_study
from longrope.plan.machine import UTILISATION, find_machine
from longrope.study import search_settings, trace_path
from longrope.windows import window_label

WITHIN = 1.5  # the factor that the plan is to be right by


@dataclass(frozen=True)
class Compared:
    """A job that was planned and that ran."""

    estimate: Estimate
    seconds: float
    quiet: float | None  # of a search, were all its scores as fast as the fastest tenth

    @property
    def ratio(self) -> float:
        """Above 1: slower than planned."""
        return self.seconds / self.estimate.seconds


def main() -> int:
    """Plan the study, find what ran, print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, help="FOLDER/config/config.yaml")
    parser.add_argument("--target", default="study")
    parser.add_argument("--flops", type=float, help="measured here, if not given")
    parser.add_argument("--utilisation", type=float, default=UTILISATION)
    parser.add_argument("--least", type=float, default=20.0, help="seconds of a job that counts")
    options = parser.parse_args()
    path = options.config or options.folder / "config/config.yaml"
    config = load_config(yaml.safe_load(path.read_text()))
    machine = find_machine("cpu", flops=options.flops, utilisation=options.utilisation)
    found, other = [], []
    for estimate in estimate_study(config, machine, options.target):
        log = options.folder / log_of(estimate)
        if not estimate.work.flops or not log.exists():
            continue
        record = read_json(log)
        if record["status"] != "finished":
            continue
        scores = _scores(options.folder, estimate)
        resumed = sum(scores) > record["seconds"]
        if resumed or not _as_configured(config, estimate, record["params"]["settings"]):
            other.append(str(log_of(estimate)))
            continue
        quiet = START + len(scores) * sorted(scores)[len(scores) // 10] if scores else None
        found.append(Compared(estimate, record["seconds"], quiet))
    rate = machine.flops * machine.matrices / 1e9
    print(f"Planned at {rate:.1f} GFLOP/s ({machine.matrices:.0%} of {machine.flops:.3g}).\n")
    print("\n".join(table(found, options.least)))
    if other:
        print(f"\nLeft out, made with other settings or resumed: {', '.join(other)}")
    return 0


def log_of(estimate: Estimate) -> Path:
    """Where the record of a job's run is, as the rules name it."""
    job = estimate.job
    place = Path("logs") / job.model / job.weights
    match job.rule:
        case "search_factors":
            return place / "factors" / f"{job.name}-{window_label(job.window)}.run.json"
        case "finetune_model":
            return place / "finetune.run.json"
        case "pretrain_model":
            return place / "pretrain.run.json"
    return place / "evaluation" / f"{job.evaluation}-{job.name}.run.json"


def table(compared: list[Compared], least: float) -> Iterator[str]:
    """The lines of the table and its summary."""
    long = sorted(
        (each for each in compared if each.seconds >= least), key=lambda each: -each.seconds
    )
    yield "| job | at | FLOPs | planned, s | measured, s | ratio | on a quiet machine, ratio |"
    yield "| --- | --- | --: | --: | --: | --: | --: |"
    for each in long:
        job, work, planned = each.estimate.job, each.estimate.work, each.estimate.seconds
        name = f"{job.evaluation} {job.name}" if job.evaluation else job.name
        quiet = f"{each.quiet / planned:.2f}" if each.quiet else ""
        yield (
            f"| {job.rule} {job.weights} {name} | {work.what} | {work.flops:.2e} | {planned:.0f} |"
            f" {each.seconds:.0f} | {each.ratio:.2f} | {quiet} |"
        )
    if not long:
        return
    yield ""
    within = sum(1 / WITHIN <= each.ratio <= WITHIN for each in long)
    middle = math.exp(sum(math.log(each.ratio) for each in long) / len(long))
    planned = sum(each.estimate.seconds for each in compared)
    yield (
        f"{within} of {len(long)} jobs of {least:g} s and more are within a factor of {WITHIN};"
        f" geometric mean {middle:.2f}."
    )
    yield (
        f"All {len(compared)} jobs that ran: {sum(each.seconds for each in compared):,.0f} s,"
        f" planned {planned:,.0f} s."
    )


def _as_configured(config, estimate: Estimate, ran: dict) -> bool:
    """Whether a job ran with the settings that are configured, as far as they cost anything."""
    job = estimate.job
    settings = config.models[job.model]
    match job.rule:
        case "search_factors":
            place = job.model, job.weights, job.name, job.window
            return ran == json.loads(search_settings(config, *place).model_dump_json())
        case "finetune_model":
            tuning = settings.tunings[job.weights]
            stage = TuningStage(name=job.weights, tuning=tuning, seed=config.seed)
            return ran == json.loads(stage.model_dump_json())
        case "evaluate_perplexity" | "evaluate_passkey" | "evaluate_ruler":
            asked = json.loads(settings.evaluation[job.evaluation].model_dump_json())
            key = "windows" if job.rule == "evaluate_perplexity" else "prompts"
            return ran[key].items() <= asked[key].items() and all(
                ran[each] == asked[each] for each in ("stride", "mode", "key") if each in ran
            )
    return True


def _scores(folder: Path, estimate: Estimate) -> list[float]:
    """The seconds of every score of a search; empty for other jobs."""
    trace = folder / trace_path(estimate.job.output)
    if estimate.job.rule != "search_factors" or not trace.exists():
        return []
    return [line["seconds"] for line in read_lines(trace)]


if __name__ == "__main__":
    raise SystemExit(main())
