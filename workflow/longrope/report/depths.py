"""Where passkeys are found: a heat map over length and depth for every method, one colour scale."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from longrope.config import Config
from longrope.report.drawing import panels
from longrope.report.labels import row_label
from longrope.report.load import Evaluation, read_evaluations
from longrope.windows import window_label

BINS = 5  # equal parts of the document
SCALE = "cividis"  # even for colour-blind readers


def depths(config: Config, paths: list[Path]) -> tuple[Figure, pd.DataFrame]:
    """Passkeys found by length and depth (0 at the beginning); each cell says of how many."""
    evaluations = read_evaluations(config, paths)
    frames, titles = [], []
    for each in evaluations:
        frames.append(_binned(each))
        titles.append(row_label(config.models[each.model], each.weights, each.method))
    figure, axes_of = panels([[""] for _ in evaluations], columns=3, width=2.0, height=1.9)
    for axes, frame, title in zip(axes_of, frames, titles, strict=True):
        image = _draw(axes, frame)
        axes.set_title(title, fontsize=8)
        bar = figure.colorbar(image, cax=axes.inset_axes((1.03, 0, 0.03, 1)), format="{x:.0%}")
        bar.ax.tick_params(labelsize=7, length=2)
        bar.outline.set_visible(False)
    columns = ["model", "evaluation", "weights", "method", "length", "depth", "found", "prompts"]
    return figure, pd.concat(frames)[columns] if frames else pd.DataFrame(columns=columns)


def _binned(evaluation: Evaluation) -> pd.DataFrame:
    """One row a length and part of the document; `depth` is where that part begins."""
    trials = pd.DataFrame(
        [
            {"length": record["length"], "depth": trial["depth"], "found": trial["found"]}
            for record in evaluation.records
            for trial in record["trials"]
        ]
    )
    part = np.minimum((trials.depth * BINS).astype(int), BINS - 1)
    grouped = trials.groupby([trials.length, part / BINS]).found.agg(["sum", "size"]).reset_index()
    grouped.columns = ["length", "depth", "found", "prompts"]
    return grouped.assign(
        model=evaluation.model,
        evaluation=evaluation.name,
        weights=evaluation.weights,
        method=evaluation.method,
    )


def _draw(axes: Axes, frame: pd.DataFrame) -> AxesImage:
    """Colours by the share that was found, and in words `found/asked`."""
    lengths = sorted(frame.length.unique())
    shares = np.full((BINS, len(lengths)), np.nan)
    axes.grid(False)
    for row in frame.itertuples():
        at = round(row.depth * BINS), lengths.index(row.length)
        shares[at] = row.found / row.prompts
        dark = shares[at] < 0.6
        axes.text(at[1], at[0], f"{row.found}/{row.prompts}", ha="center", va="center",
                  fontsize=7, color="white" if dark else "black")  # fmt: skip
    image = axes.imshow(shares, cmap=SCALE, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(lengths)), [window_label(int(each)) for each in lengths])
    axes.set_yticks(range(BINS), [f"{each / BINS:.0%}" for each in range(BINS)])
    axes.set(xlabel="length of the prompt (tokens)", ylabel="depth of the key, from")
    return image
