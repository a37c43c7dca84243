"""
How every figure is drawn: one style, one look per method, lines that are named where they end.

Figures with one panel a row are about 5 inches wide: their text is still 5 points high in a column
of a paper. Those with several panels a row are for the width of a page.

Nothing here knows what is measured. Figures are made without pyplot, so nothing is global; the
same data give the same bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from longrope.baselines import parts_of
from longrope.files import replacing, write_text

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 12,  # room for a note below it
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,
    "savefig.dpi": 150,
}
SEARCHED = "#D55E00"  # all that LongRoPE searches; with the next ones Okabe and Ito's palette,
COLOURS = {  # which colour-blind readers tell apart
    "none": "#8a8a8a",
    "pi": "#56B4E9",
    "ntk": "#009E73",
    "yarn": "#0072B2",
    "mrrope-pro": "#CC79A7",
}
OTHERS = ("#E69F00", "#000000", "#7A5195", "#8C564B")  # for formulas beyond these, in turn;
ROUNDS = ("-", (0, (5, 1, 1, 1)))  # a colour that comes again has other dashes
LINE = 10  # points from one name to the next
LEADER = {  # from a name to its line; dotted and grey, so that none takes it for what was measured
    "arrowstyle": "-", "linewidth": 0.7, "linestyle": (0, (1, 2)), "color": "#999999",
    "relpos": (0, 0.5), "shrinkB": 3,
}  # fmt: skip
LETTER = 0.064  # inches that a letter of a name takes
LEFT, BOTTOM, TOP = 0.6, 0.65, 0.4  # inches around a panel


@dataclass(frozen=True, slots=True)
class End:
    """Where a line ends, and what is written there."""

    label: str
    x: float
    y: float
    colour: str
    bold: bool = False


def colour(form: str, forms: Iterable[str]) -> str:
    """A method's colour, the same in every figure; what is none of the `forms` is searched.

    Closed forms with a critical pair or an n_hat of their own have that of the plain one.
    """
    form = parts_of(form)[0]
    if form in COLOURS:
        return COLOURS[form]
    others = [name for name in forms if name not in COLOURS]
    return OTHERS[others.index(form) % len(OTHERS)] if form in others else SEARCHED


def dashes(form: str, forms: Iterable[str]) -> str | tuple:
    """The dashes of a method's line, which tell apart the formulas that share a colour."""
    others = [name for name in forms if name not in COLOURS]
    form = parts_of(form)[0]
    return ROUNDS[others.index(form) // len(OTHERS) % len(ROUNDS)] if form in others else ROUNDS[0]


def panels(
    names: list[list[str]], *, columns: int, width: float, height: float
) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels (sizes in inches) with room for the names right of each.

    `names` are those of each panel, row by row. Without panels it says that nothing is to draw.
    """
    columns = max(1, min(columns, len(names)))
    rows, high = max(1, -(-len(names) // columns)), TOP + height + BOTTOM
    longest = [max(map(len, sum(names[at::columns], [""]))) for at in range(columns)]
    wide = [LEFT + width + 0.4 + LETTER * letters for letters in longest]
    figure = Figure(figsize=(sum(wide), rows * high))
    if not names:
        figure.text(0.5, 0.5, "nothing to draw in this configuration", ha="center")
    axes = []
    for index in range(len(names)):
        row, column = divmod(index, columns)
        left, bottom = sum(wide[:column]) + LEFT, (rows - 1 - row) * high + BOTTOM
        place = (left / sum(wide), bottom / (rows * high))
        axes.append(figure.add_axes((*place, width / sum(wide), height / (rows * high))))
    return figure, axes


def name_ends(axes: Axes, ends: Iterable[End]) -> None:
    """Write names right of the panel, near where their lines end, without overlaps.

    What ends above the axis is named at its top, with its value. Call it when limits are final.
    """
    top = axes.get_ylim()[1]
    to_share = axes.transData + axes.transAxes.inverted()
    placed = sorted(
        ((float(np.clip(to_share.transform((end.x, end.y))[1], 0, 1)), end.y, end) for end in ends),
        key=lambda each: each[:2],
    )
    height = axes.get_position().height * axes.figure.get_figheight() * 72
    gap = min(LINE / height, 1 / max(1, len(placed) - 1))
    for (share, _, end), label_share in zip(
        placed, spread([share for share, _, _ in placed], gap), strict=True
    ):
        text = end.label + (f"  ↑ {end.y:.4g}" if end.y > top else "")
        axes.annotate(
            text,
            (to_share.transform((end.x, end.y))[0], share),
            (1.05, label_share),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=end.colour,
            fontweight="bold" if end.bold else "normal",
            annotation_clip=False,
            arrowprops=None if end.y > top else LEADER,
        )


def spread(wanted: list[float], gap: float) -> list[float]:
    """Places in [0, 1], at least `gap` apart and as near to the wanted (rising) ones as can be.

    Least squares under that constraint: isotonic regression of what is left when the gaps are
    taken off, by pooling neighbours that would cross.
    """
    blocks: list[list[float]] = []  # sum and number
    for index, place in enumerate(wanted):
        blocks.append([place - index * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, number = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += number
    pooled = [total / number for total, number in blocks for _ in range(int(number))]
    highest = 1 - (len(wanted) - 1) * gap
    return [min(max(place, 0), highest) + index * gap for index, place in enumerate(pooled)]


def note_above(axes: Axes, values: Iterable[float], what: str) -> None:
    """Say what the axis leaves out above its end, if it does."""
    if above := [value for value in values if value > axes.get_ylim()[1]]:
        many = f"{len(above)} {what}s lie" if len(above) > 1 else f"1 {what} lies"
        text = f"{many} above this axis, up to {max(above):.4g}"
        axes.text(1, 1.01, text, transform=axes.transAxes, ha="right", fontsize=7, color="#777777")


def save(figure: Figure, frame: pd.DataFrame, stem: Path) -> None:
    """Write png, pdf and the csv of what is drawn."""
    FigureCanvasAgg(figure)
    for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        with replacing(stem.with_suffix(f".{ending}")) as draft:
            figure.savefig(draft, format=ending, metadata=metadata, bbox_inches="tight")
    write_text(stem.with_suffix(".csv"), frame.to_csv(index=False))


def styled():
    """A context in which the style holds, whatever the user's matplotlibrc says."""
    return style.context(STYLE, after_reset=True)
