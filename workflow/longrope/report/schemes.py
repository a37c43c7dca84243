"""
Figure 2 of the paper, from real factors: what stretching does to RoPE.

The cosine of three pairs over the position: as pre-trained and simply going on (extrapolation),
squeezed evenly (PI), and with the factors that a search found.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from longrope.baselines import closed_form
from longrope.config import Config
from longrope.factors import RescaleFactors, read_factors
from longrope.report.drawing import SEARCHED, colour, panels
from longrope.report.labels import NAMES
from longrope.windows import window_label

TURNS = (4, 1, 0.25)  # of the pairs that are drawn, about, within the original window
ABOVE = {"bbox_to_anchor": (0, 0.97), "borderpad": 0, "handlelength": 1.6}  # the panel
SAMPLES = 1500  # positions that are drawn


def figure2(config: Config, paths: list[Path]) -> tuple[Figure, pd.DataFrame]:
    """Three panels for every searched model."""
    lines = []
    found = [read_factors(path) for path in paths]
    figure, axes_of = panels([[""] for _ in found for _ in TURNS], columns=1, width=3.6, height=1.5)
    for number, factors in enumerate(found):
        schemes = {
            "extrapolation": closed_form("none", factors.rope, factors.rope.original_window),
            "LongRoPE": factors,
            "PI": closed_form("pi", factors.rope, factors.window),  # last: dashed on the others
        }
        looks = {
            "extrapolation": {"color": colour("none", NAMES), "linewidth": 0.8},
            "LongRoPE": {"color": SEARCHED, "linewidth": 2.2},
            "PI": {"color": colour("pi", NAMES), "linewidth": 1.4, "linestyle": (0, (4, 2))},
        }
        positions = np.linspace(0, factors.window, SAMPLES)
        for axes, pair in zip(axes_of[3 * number :], _pairs(factors), strict=False):
            for name, scheme in schemes.items():
                values = np.cos(_angles(scheme, pair, positions))
                axes.plot(positions, values, label=name, **looks[name])
                lines.append(
                    pd.DataFrame({"position": positions, "cosine": values}).assign(
                        model=factors.rope.model, pair=pair, scheme=name
                    )
                )
            axes.axvspan(0, factors.rope.original_window, color="#eeeeee", zorder=0)
            axes.set_title(
                f"{factors.rope.model} at {window_label(factors.window)}, pair {pair}:"
                f" LongRoPE {factors.lambda_[pair]:.2f}, PI {schemes['PI'].lambda_[pair]:g}",
                fontsize=9,
            )
            axes.set(xlabel="position (grey: as pre-trained)", ylabel="cosine", ylim=(-1.1, 1.1))
            axes.legend(ncols=3, fontsize=8, frameon=False, loc="lower left", **ABOVE)
    columns = ["model", "pair", "scheme", "position", "cosine"]
    return figure, pd.concat(lines)[columns] if lines else pd.DataFrame(columns=columns)


def _pairs(factors: RescaleFactors) -> list[int]:
    """One pair each that turns about so often within the original window."""
    rope = factors.rope
    turns = rope.original_window * _frequency(factors, np.arange(rope.pairs)) / (2 * np.pi)
    return [int(np.abs(np.log(turns / wanted)).argmin()) for wanted in TURNS]


def _frequency(factors: RescaleFactors, pair: np.ndarray | int) -> np.ndarray:
    return factors.rope.theta ** (-2.0 * np.asarray(pair) / factors.rope.rotary_dim)


def _angles(factors: RescaleFactors, pair: int, positions: np.ndarray) -> np.ndarray:
    """Of a pair at every position; the first n_hat positions are as they were."""
    plain = positions * _frequency(factors, pair)
    return np.where(positions < factors.n_hat, plain, plain / factors.lambda_[pair])
