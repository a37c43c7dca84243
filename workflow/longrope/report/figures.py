"""
The paper's figures for whatever was configured: png, pdf, html, and the csv they draw. Figure 2
and the heat map of passkeys are in `schemes` and `depths`.

Colour says which method, dashes whether it stretches the tuned factors, the marker on which tuned
weights. An axis that leaves points out says how many.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.errors import UserError, unknown_name
from longrope.files import read_lines, write_text
from longrope.report.contents import CONTENTS
from longrope.report.depths import depths
from longrope.report.drawing import (
    End,
    colour,
    dashes,
    name_ends,
    note,
    note_above,
    panels,
    save,
    styled,
)
from longrope.report.labels import NAMES, method_label, row_label, weights_label
from longrope.report.load import (
    Evaluation,
    accuracies,
    chosen,
    perplexities,
    read_evaluations,
)
from longrope.report.page import page_of_picture
from longrope.report.schemes import figure2
from longrope.report.search import draw_progress, minimised, progress_names, read_trace
from longrope.study import ON_TUNED
from longrope.windows import window_label

REACH = 4.0  # figure 1 ends at so many times a model's lowest perplexity
TICK = 0.45  # inches from one length to the next, which a word below it wants
MARKERS = "osD^vP"  # by tuning
DASHES = ((0, (4, 1.5)), "-", (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))


def plot(name: str, config: Config, inputs: list[Path], out_stem: Path) -> None:
    """Draw a figure from evaluation files, figure2 from factors, figure5 from the metrics of
    trainings, figure6 from traces of searches.

    Writes `out_stem` with the endings .png, .pdf, .html and .csv.
    """
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    with styled():
        save(*FIGURES[name](config, inputs), out_stem)
    page = page_of_picture(out_stem.with_suffix(".png").read_bytes(), CONTENTS[name].title)
    write_text(out_stem.with_suffix(".html"), page)


# --- over the context length ------------------------------------------------------------------


def figure1(config: Config, paths: list[Path]) -> tuple[Figure, pd.DataFrame]:
    """Perplexity over the context window; the axis ends where only blown-up models go on."""
    evaluations = read_evaluations(config, paths)
    frame = perplexities(evaluations)
    lowest = frame.groupby(["model", "evaluation"]).perplexity.transform("min")
    frame["above_axis"] = frame.perplexity > lowest * REACH

    def prepare(axes: Axes, own: pd.DataFrame) -> None:
        low, high = own.perplexity.min(), own.perplexity.max()
        axes.set_yscale("log")
        axes.set_ylim(low * 0.9, min(high * 1.05, low * REACH))
        ticks = [
            digit * 10.0**power for power in range(7) for digit in (1, 1.5, 2, 2.5, 3, 4, 6, 8)
        ]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel("perplexity (log scale)")

    return _over_length(config, evaluations, frame, "perplexity", prepare), frame


def figure4(config: Config, paths: list[Path]) -> tuple[Figure, pd.DataFrame]:
    """Passkeys found over the context window, with 95% Wilson intervals."""
    evaluations = read_evaluations(config, paths)
    frame = accuracies(evaluations)

    def prepare(axes: Axes, own: pd.DataFrame) -> None:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.set_ylabel("passkeys found (95% interval)")

    return _over_length(config, evaluations, frame, "accuracy", prepare), frame


def _over_length(
    config: Config,
    evaluations: list[Evaluation],
    frame: pd.DataFrame,
    value: str,
    prepare: Callable[[Axes, pd.DataFrame], None],
) -> Figure:
    """Panels for each model and text: as pre-trained, and fine-tuned."""
    parts, names, titles = [], [], []
    for model, settings in config.models.items():
        for text in settings.evaluation:
            for weights, label in (({BASE}, method_label), (settings.tunings, row_label)):
                own = [each for each in evaluations if each.name == text]
                if part := chosen(own, model, weights):
                    parts.append(part)
                    names.append([label(settings, each.weights, each.method) for each in part])
                    before = "as published" if settings.rope == "own" else "as pre-trained"
                    state = before if part[0].weights == BASE else "fine-tuned"
                    titles.append(f"{model}, {state}: {text}")
    height = max([2.3, *(0.15 * len(part) for part in parts)])
    ticks = [len({length for each in part for length in each.lengths}) for part in parts]
    width = max([2.5, *(TICK * number for number in ticks)])
    figure, axes_of = panels(names, columns=1, width=width, height=height)
    for axes, part, labels, title in zip(axes_of, parts, names, titles, strict=True):
        model, text = part[0].model, part[0].name
        settings = config.models[model]
        own = frame[(frame.model == model) & (frame.evaluation == text)]
        tuned = part[0].weights != BASE
        _length_axis(axes, settings, own, tuned)
        prepare(axes, own)
        ends, drawn = [], []
        for number, (each, label) in enumerate(zip(part, labels, strict=True)):
            look = _look(settings, each.weights, each.method)
            mine = own[(own.weights == each.weights) & (own.method == each.method)]
            x, y = np.log2(mine.length.to_numpy(float)), mine[value].to_numpy()
            if "low" in mine:  # side by side, so that intervals do not hide each other
                x = x + 0.3 * ((number + 0.5) / len(part) - 0.5)
                reach = np.maximum(0, [y - mine.low, mine.high - y])
                axes.errorbar(x, y, reach, fmt="none", ecolor=look["color"], elinewidth=0.8)
            axes.plot(x, y, **look)
            ends.append(End(label, x[-1], y[-1], look["color"], each.method == "extended"))
            drawn += list(y)
        name_ends(axes, ends)
        note_above(axes, drawn, "point")
        if "low" in own and len(part) > 1:
            note(axes, "points of one length stand side by side")
        axes.set_title(title)
    return figure


def _length_axis(axes: Axes, settings: ModelSettings, own: pd.DataFrame, tuned: bool) -> None:
    """Lengths by their labels, doubling from tick to tick; training windows are marked."""
    marks = {settings.original_window: "original"}
    if tuned:
        marks |= {each.window: "tuned" for each in settings.tunings.values()}
    ticks = sorted({*map(int, own.length), *marks})
    labels = [f"{window_label(each)}\n{marks.get(each, '')}" for each in ticks]
    axes.set_xticks([math.log2(each) for each in ticks], labels)
    axes.set_xlim(math.log2(ticks[0]) - 0.25, math.log2(ticks[-1]) + 0.25)
    axes.set_xlabel("context length (tokens)")
    for window in marks:
        axes.axvline(math.log2(window), color="#999999", linewidth=0.9, linestyle=(0, (1, 2)))


def _look(settings: ModelSettings, weights: str, method: str) -> dict:
    """How the line of a method is drawn."""
    tuning, form = settings.tunings.get(weights), method.removesuffix(ON_TUNED)
    own = {"tuned": DASHES[3], "longest": DASHES[2]}
    variants = list(settings.variants)
    if method in variants:
        own[method] = DASHES[variants.index(method) % len(DASHES)]
    number = list(settings.tunings).index(weights) if tuning else 0
    return {
        "color": colour(tuning.method if method == "tuned" else form, NAMES),
        "linestyle": DASHES[0]
        if method.endswith(ON_TUNED)
        else own.get(method, dashes(form, NAMES)),
        "marker": MARKERS[number % len(MARKERS)],
        "linewidth": {"extended": 3.2, "search": 2.2}.get(method, 1.1),
        "zorder": 3 if method in ("extended", "search") else 4,  # thin ones stay visible on them
    }


# --- over steps -------------------------------------------------------------------------------


def figure5(config: Config, paths: list[Path]) -> tuple[Figure, pd.DataFrame]:
    """Fine-tuning loss by step, counted from the pre-trained model: a tuning that starts from
    another goes on where that ends. Each step lightly, a centred mean over a fifth of them boldly;
    the axis ends around the means. Where the data are mixed it is the loss of their text: a step
    that holds more passkeys has a lower one.
    """
    columns, lines = ["model", "weights", "step", "step_from_base", "loss", "smoothed"], []
    ended, spans = {(model, BASE): 0 for model in config.models}, set()
    for path in paths:
        model, weights = _placed(path, config, "model/weights/training/metrics.jsonl")
        line = pd.DataFrame(read_lines(path))
        if "loss_text" in line:  # a step may hold none
            line = line.assign(loss=line.loss_text).dropna(subset="loss")
        span = max(1, len(line) // 5)
        smoothed = line.loss.rolling(span, center=True, min_periods=1).mean()
        spans.add(span)
        line = line.assign(model=model, weights=weights, smoothed=smoothed)
        start = config.models[model].tunings[weights].start
        if (model, start) not in ended:
            raise UserError(f"{path}: {weights} starts from {start}, whose metrics come before")
        line["step_from_base"] = line.step + ended[model, start]
        ended[model, weights] = line.step_from_base.max()
        lines.append(line[columns])
    frame = pd.concat(lines) if lines else pd.DataFrame(columns=columns)
    models = [model for model in config.models if model in set(frame.model)]
    names = [list(config.models[model].tunings) for model in models]
    figure, axes_of = panels(names, columns=1, width=3.2, height=2.3)
    for axes, model in zip(axes_of, models, strict=True):
        ends, seen = [], []
        for weights, mine in frame[frame.model == model].groupby("weights", sort=False):
            method = config.models[model].tunings[weights].method
            look = {
                "color": colour(method, NAMES),
                "linestyle": DASHES[seen.count(method) % len(DASHES)],
            }
            seen.append(method)
            axes.plot(
                mine.step_from_base, mine.loss, color=look["color"], linewidth=0.6, alpha=0.25
            )
            axes.plot(mine.step_from_base, mine.smoothed, linewidth=1.8, **look)
            last = mine.iloc[-1]
            ends.append(End(weights, last.step_from_base, last.smoothed, look["color"]))
        means = frame[frame.model == model].smoothed
        margin = 0.3 * (means.max() - means.min())
        axes.set_ylim(means.min() - margin, means.max() + margin)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(f"{model}, fine-tuning")
        said = " or ".join(map(str, sorted(spans)))
        note(axes, f"bold: mean of {said} steps; pale: single steps")
        axes.set(
            xlabel="step, from the pre-trained model", ylabel="training loss of text (nats a token)"
        )
        name_ends(axes, ends)
    return figure, frame


def figure6(config: Config, paths: list[Path]) -> tuple[Figure, pd.DataFrame]:
    """The best of every search by tokens forwarded, and what each started from.

    A panel draws what its search minimised and says so on its axis: perplexity, as in the paper, or
    a fitness of several losses. The csv has both, and `minimised` says which was drawn.
    """
    keys = ["model", "weights", "method", "window"]
    columns = [*keys, "step", "generation", "tokens", "start", "documents", "minimised"]
    places = [
        _placed(path, config, "model/weights/factors/method/window/trace.jsonl") for path in paths
    ]
    traces = [read_trace(path) for path in paths]
    names = [progress_names(each) for each in traces]
    figure, axes_of = panels(names, columns=2, width=2.0, height=2.1)
    lines = []
    for axes, place, tried in zip(axes_of, places, traces, strict=True):
        draw_progress(axes, tried)
        model, weights, method, window = place
        axes.set_title(f"{model}, {weights_label(weights)}: {method} at {window}")
        line = tried.assign(**dict(zip(keys, place, strict=True)))
        line["minimised"] = minimised(tried)
        line["above_axis"] = line[minimised(tried)] > axes.get_ylim()[1]
        lines.append(line)
    columns += ["perplexity", "best_perplexity", "fitness", "best_fitness", "above_axis"]
    return figure, pd.concat(lines)[columns] if lines else pd.DataFrame(columns=columns)


# --- inputs -----------------------------------------------------------------------------------


def _placed(path: Path, config: Config, pattern: str) -> list[str]:
    """What the folders of a result's path say, for the words of the pattern that are no names."""
    words, parts = pattern.split("/"), Path(path).parts
    parts = parts[len(parts) - len(words) :] if len(parts) >= len(words) else ()
    fixed = ("training", "factors", words[-1])
    if not parts or any(
        word in fixed and word != part for word, part in zip(words, parts, strict=True)
    ):
        raise UserError(f"{path}: expected a path that ends like results/{pattern}")
    if parts[0] not in config.models:
        raise UserError(f"{path}: {unknown_name('model', parts[0], config.models)}")
    known = [BASE, *config.models[parts[0]].tunings]
    if parts[1] not in known:
        raise UserError(f"{path}: {unknown_name('weights', parts[1], known)}")
    return [part for word, part in zip(words, parts, strict=True) if word not in fixed]


FIGURES = {
    "figure1": figure1,
    "figure2": figure2,
    "figure3": figure1,  # of what was not tuned
    "figure4": figure4,
    "depths": depths,
    "figure5": figure5,
    "figure5c": figure5,  # of the routes to the second window
    "figure6": figure6,
}
