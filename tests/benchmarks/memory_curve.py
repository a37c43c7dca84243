"""
How much memory does it take to score a sequence, and does that grow in step with its length?

    python tests/benchmarks/memory_curve.py --model results/smollm2-135m-q4/base/model \\
        --lengths 8k 16k 32k 64k --plain 8k --out docs/results

A process of its own for each length loads the model, takes the losses of that many random tokens
with YaRN's factors, on a CPU, and says how large it ever was: Python, torch and weights included.
`--plain` does so with the loss of transformers' own model, which holds logits. Writes
memory-curve.csv, .md and .png; points that are in the csv already are not measured again.
"""

import argparse
import csv
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from longrope.windows import parse_window, window_label

GB = 1e9
LINEAR = 1.1  # power of the length up to which memory counts as linear


def main() -> None:
    """Measure every length, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint of the workflow")
    parser.add_argument("--lengths", type=parse_window, nargs="+", default=[8192, 16384, 32768])
    parser.add_argument("--plain", type=parse_window, nargs="*", default=[], help="lengths at which"
                        " the loss of transformers' own model is measured, too")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for csv, md and png")
    parser.add_argument("--child", choices=("pieces", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.model, options.lengths[0], options.child)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "memory-curve.csv"
    known = {(point["loss"], point["tokens"]): point for point in read(table)}
    points = []
    for loss, lengths in (("pieces", options.lengths), ("plain", options.plain)):
        for length in lengths:
            point = known.get((loss, length)) or in_a_process(options.model, length, loss)
            points.append(point)
            write(table, points)
            print(line(point), flush=True)
    text = "\n".join(report(options.model, points)) + "\n"
    (options.out / "memory-curve.md").write_text(text)
    draw(points, options.out / "memory-curve.png")


def read(table: Path) -> list[dict]:
    """The points that a run before has measured."""
    if not table.exists():
        return []
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {key: float for key in ("seconds", "processor_seconds")}
    numbers |= {key: int for key in ("tokens", "loaded", "peak", "planned", "threads")}
    return [{key: numbers.get(key, str)(value) for key, value in row.items()} for row in rows]


def write(table: Path, points: list[dict]) -> None:
    """All points so far."""
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, points[0])
        writer.writeheader()
        writer.writerows(points)


def in_a_process(model: Path, length: int, loss: str) -> dict:
    """One point. This process has imported nothing large: a child's peak begins with it."""
    arguments = ["--model", model, "--lengths", length, "--child", loss, "--out", "."]
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, length: int, loss: str) -> dict:
    """What one sequence takes, in this process."""
    import torch

    from longrope.baselines import closed_form
    from longrope.losses import token_losses
    from longrope.models.checkpoint import load_model, read_record
    from longrope.plan.architecture import of_config
    from longrope.plan.cost import inference_memory
    from longrope.plan.estimate import PROCESS
    from longrope.rope import install

    rope, model = read_record(folder).rope, load_model(folder)
    install(model, rope).use([closed_form("yarn", rope, max(length, 2 * rope.original_window))])
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(model.config.vocab_size, (1, length), generator=generator)
    loaded, wall, processor = largest(), time.perf_counter(), time.process_time()
    with torch.no_grad():
        if loss == "plain":
            found = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        else:
            found = token_losses(model, tokens).mean()
    assert torch.isfinite(found)
    shape = of_config(model.config.to_dict(), str(folder))
    return {
        "tokens": length,
        "loss": loss,
        "loaded": loaded,
        "peak": largest(),
        "planned": PROCESS + inference_memory(shape, length, model.dtype.itemsize),
        "seconds": round(time.perf_counter() - wall, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "about": f"{model.dtype} on a CPU".removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def largest() -> int:
    """Bytes that this process had at the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def line(point: dict) -> str:
    """One point of the table."""
    return (
        f"| {window_label(point['tokens'])} | {point['loss']} | {point['peak'] / GB:.2f} |"
        f" {(point['peak'] - point['loaded']) / GB:.2f} | {point['planned'] / GB:.2f} |"
        f" {point['processor_seconds']:.0f} |"
    )


def fit(points: list[dict]) -> tuple[float, float]:
    """Bytes a token, and bytes at none: the straight line through the peaks."""
    slope, start = np.polyfit(
        *(np.array([p[key] for p in points]) for key in ("tokens", "peak")), 1
    )
    return slope, start


def powers(points: list[dict]) -> list[float]:
    """From each length to the next: the power of the length with which the peak above what is
    loaded grows. 1 is in step with it, less where pieces weigh more than the rest; a mask has 2."""
    grown = [(math.log(p["tokens"]), math.log(p["peak"] - p["loaded"])) for p in points]
    return [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in itertools.pairwise(grown)]


def report(model: Path, points: list[dict]) -> list[str]:
    """The page about them."""
    first, ours = points[0], [point for point in points if point["loss"] == "pieces"]
    lines = [
        "# Memory of a score over its length",
        "",
        f"{model.parent.parent.name}, {first['about']}, {first['threads']} thread(s), torch"
        f" {first['torch']}; GB are 10^9 bytes. `pieces` is what searches and evaluations run,"
        " `plain` the loss of transformers' own model on the same weights. The peak is that of the"
        f" whole process; beside it, what is above the {first['loaded'] / GB:.2f} GB of Python,"
        " torch and loaded weights. Seconds are of processor time: the machine had other load.",
        "",
        "| tokens | loss | peak, GB | above loaded | planned | processor, s |",
        "| --- | --- | --: | --: | --: | --: |",
        *map(line, points),
        "",
    ]
    if len(ours) > 2:
        (slope, start), found = fit(ours), powers(ours)
        lines.append(
            f"A straight line through the peaks has {start / GB:.2f} GB and {slope / 1e3:.1f} kB a"
            " token. From each length to the next, what is above loaded grows with the power"
            f" {', '.join(f'{power:.2f}' for power in found)} of the length:"
            f" {'at most' if max(found) < LINEAR else 'MORE than'} linearly."
        )
    return lines


def draw(points: list[dict], path: Path) -> None:
    """Peaks over lengths, with the line through them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from longrope.report.drawing import COLOURS, SEARCHED, End, name_ends, panels, styled

    with styled():
        names = {"pieces": "in pieces", "plain": "transformers' own loss"}
        shown = [name for loss, name in names.items() if any(p["loss"] == loss for p in points)]
        figure, (axes,) = panels([[*shown, "loaded"]], columns=1, width=3.4, height=2.2)
        ends = []
        for loss, colour in (("pieces", SEARCHED), ("plain", COLOURS["none"])):
            tokens = [point["tokens"] for point in points if point["loss"] == loss]
            peaks = [point["peak"] / GB for point in points if point["loss"] == loss]
            if not tokens:
                continue
            axes.plot(tokens, peaks, "o", color=colour)
            if len(tokens) > 2:
                slope, start = fit([point for point in points if point["loss"] == loss])
                line = [(slope * each + start) / GB for each in (0, max(tokens))]
                axes.plot([0, max(tokens)], line, color=colour, linewidth=1)
            ends.append(End(names[loss], tokens[-1], peaks[-1], colour, bold=loss == "pieces"))
        longest, loaded = max(point["tokens"] for point in points), points[0]["loaded"] / GB
        axes.plot([0, longest], [loaded, loaded], color="#444444", linewidth=0.7, linestyle=":")
        ends.append(End("loaded", longest, loaded, "#444444"))
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xticks(lengths := sorted({point["tokens"] for point in points}))
        axes.set_xticklabels([window_label(each) for each in lengths])
        axes.set_title("Memory of a score over its length")
        axes.set_xlabel("tokens")
        axes.set_ylabel("peak of the process, GB")
        name_ends(axes, ends)
        FigureCanvasAgg(figure)
        figure.savefig(path, metadata={"Software": None}, bbox_inches="tight")


if __name__ == "__main__":
    main()
