"""
One search by its trace: what it tried, the factors that it found, and what finding them cost.

A line of a trace scores one candidate on one validation document, and documents differ by more
than candidates do. So a candidate that was scored on some documents only is set beside the one
that was found, on those documents; what lies between them is taken for all documents.

What is drawn is what the search minimised: perplexity, or where its fitness has more parts, the
fitness. The perplexity of the best may then rise, as a better one may pay for its needles with it.
"""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from longrope.config.base import BASE
from longrope.errors import UserError
from longrope.factors import RescaleFactors, own_start, read_factors
from longrope.files import replacing
from longrope.report.drawing import SEARCHED, End, colour, name_ends, note_above, panels, styled
from longrope.report.labels import NAMES
from longrope.trace_file import read_trace_lines
from longrope.windows import window_label

DASHES = (0, (4, 1.5))  # of a start
MOST = 5  # starts that are drawn, one a closed form
FIRST = ("pi", "ntk", "yarn", "llama3", "mrrope-pro")  # whom people compare with
# How far above the best the axis reaches: at least 1%, at most twice the perplexity; the same of a
# fitness, in nats.
REACH = {"perplexity": (0.01, 1.0), "fitness": (0.01, math.log(2))}
LABELS = {"perplexity": "validation perplexity", "fitness": "fitness (nats a token)"}
LARGEST = 700  # nats whose exponential is still a number


def plot_search(factors: Path, trace: Path, out: Path) -> None:
    """Draw the factors of a search beside its starts, and its progress by tokens, as one PNG.

    Raises UserError if the two files are not of the same search.
    """
    found, tried = read_factors(factors), read_trace(trace)
    winner = tried[tried.found].iloc[0]
    alone = found.provenance.get("multiplies") is None  # lambda = mu
    if winner.n_hat != found.n_hat or (alone and not np.allclose(winner.mu, found.lambda_)):
        raise UserError(f"{trace}: its best candidate is not {factors}; take both from one search")
    with styled():
        figure, (left, right) = panels(
            [[""], progress_names(tried)], columns=2, width=3.3, height=2.7
        )
        _draw_factors(left, found, tried)
        draw_progress(right, tried)
        right.set_title(f"Best {minimised(tried)} on all validation documents")
        weights = found.provenance.get("weights", BASE)
        place = found.rope.model if weights == BASE else f"{found.rope.model}, {weights},"
        heading = (
            f"{place} {window_label(found.window)}: {_worth(tried)} after"
            f" {tried.tokens.iloc[-1] / 1e6:.2f}M tokens; n_hat {found.n_hat},"
            f" attention factor {found.attention_factor:.4g}"
        )
        figure.text(left.get_position().x0, 1, heading, fontsize=10.5, fontweight="bold")
        FigureCanvasAgg(figure)
        with replacing(out) as draft:
            figure.savefig(draft, format="png", metadata={"Software": None}, bbox_inches="tight")


def read_trace(path: Path) -> pd.DataFrame:
    """One row per candidate, in the order of their last scores, and what was known by then.

    `perplexity` and `fitness` are over all documents; estimated for a candidate that was scored on
    `documents` of them only. `best_perplexity` and `best_fitness` are those of the best candidate
    scored on all, NaN before there is one. The row that was `found` is true; `losses` are the means
    of a candidate on its own documents, in nats a token.
    """
    scores: dict[tuple, dict[int, dict[str, float]]] = {}
    last: dict[tuple, dict] = {}
    winner, best = None, None
    for line in read_trace_lines(path):
        candidate = (line["n_hat"], tuple(line["mu"]), line["attention"], line["critical"])
        score = {**line["losses"], "fitness": line["fitness"]}
        scores.setdefault(candidate, {})[line["sample"]] = {
            measure: math.inf if value is None else value for measure, value in score.items()
        }
        last[candidate] = line
        if line["best_fitness"] != best:
            winner, best = candidate, line["best_fitness"]
    if winner is None:
        raise UserError(f"{path}: no candidate has a finite loss on every document; search longer")
    ahead = scores[winner]
    rows = [
        {
            **{key: line[key] for key in ("step", "generation", "tokens", "start", "n_hat")},
            "mu": np.array(line["mu"]),
            "documents": len(scores[candidate]),
            "perplexity": _exp(_estimate(scores[candidate], ahead, "perplexity")),
            "fitness": _estimate(scores[candidate], ahead, "fitness"),
            "losses": {each: _mean(scores[candidate], each) for each in line["losses"]},
            "best_perplexity": line["best_perplexity"],
            "best_fitness": line["best_fitness"],
            "found": candidate == winner,
        }
        for candidate, line in last.items()
    ]
    frame = pd.DataFrame(rows).sort_values("step", ignore_index=True)
    return frame.astype({"best_perplexity": float, "best_fitness": float})


def minimised(tried: pd.DataFrame) -> str:
    """What the search minimised: `perplexity`, or `fitness` where that has more parts."""
    return "perplexity" if set(tried.losses.iloc[0]) == {"perplexity"} else "fitness"


def _mean(scores: dict[int, dict[str, float]], measure: str) -> float:
    return sum(score[measure] for score in scores.values()) / len(scores)


def _estimate(scores: dict[int, dict], ahead: dict[int, dict], measure: str) -> float:
    """A mean over all documents of `ahead` from scores on some: as far from it as on those."""
    on_those = {sample: ahead[sample] for sample in scores}
    return _mean(ahead, measure) + _mean(scores, measure) - _mean(on_those, measure)


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < LARGEST else math.inf


def _worth(tried: pd.DataFrame) -> str:
    """What the candidate that was found is worth, in words."""
    winner = tried[tried.found].iloc[0]
    perplexity = f"perplexity {winner.perplexity:.4g}"
    if minimised(tried) == "perplexity":
        return perplexity
    others = [
        f"{measure.replace('_', ' ')} {loss:.3g}"
        for measure, loss in winner.losses.items()
        if measure != "perplexity"
    ]
    return f"fitness {winner.fitness:.4g} ({', '.join([perplexity, *others])})"


def shown_starts(tried: pd.DataFrame) -> pd.DataFrame:
    """The starts to draw: of every closed form its best, and the best of the forms."""
    starts = tried[tried.start.notna()].copy()
    starts["form"] = [start_label(name)[1] for name in starts.start]
    starts = starts.sort_values(minimised(tried), kind="stable").drop_duplicates("form")
    starts["rest"] = ~starts.form.isin(FIRST)
    return starts.sort_values(["rest", minimised(tried)], kind="stable").head(MOST)


def start_label(name: str) -> tuple[str, str]:
    """Label and form of a start's name in a trace, such as `yarn from 2k, tempered`."""
    if name.startswith("tuned^"):
        whole = {"tuned^0": "original RoPE", "tuned^1": "as tuned"}
        return whole.get(name, name.replace("tuned^", "tuned factors ^ ")), name
    form = re.match(r"[^ ,]+", name).group()
    label = NAMES.get(form, form) + name.removeprefix(form)
    return label.replace(", tempered", " + temperature"), form


def _start_colour(form: str) -> str:
    """A closed form's own; greys for powers of tuned factors, darker towards them."""
    if form in NAMES:
        return colour(form, NAMES)
    power = float(form.removeprefix("tuned^")) if form.startswith("tuned^") else 0.5
    return str(round(0.65 - 0.4 * power, 3))


def progress_names(tried: pd.DataFrame) -> list[str]:
    """What `draw_progress` writes beside its lines, for the room that it takes."""
    return [end.label for end in _ends(tried, math.inf)]


def draw_progress(axes: Axes, tried: pd.DataFrame) -> None:
    """The best so far by tokens forwarded, and what the search began with; dots are the candidates
    that were scored on all documents. The axis ends above the nearest start, see `REACH`.
    """
    measure = minimised(tried)
    curve, starts = tried[f"best_{measure}"], shown_starts(tried)[measure]
    best = curve.iloc[-1]
    least, most = (each * (best if measure == "perplexity" else 1) for each in REACH[measure])
    nearest = min(starts[starts > best], default=curve.max())
    reach = float(np.clip(nearest - best, least, most))
    lowest = min([best, *starts])  # a start may be estimated to be below it
    axes.set_ylim(lowest - 0.06 * reach, best + 1.15 * reach)
    axes.set_xlim(0, tried.tokens.iloc[-1])
    whole = tried[tried.documents == tried.documents.max()]
    axes.scatter(whole.tokens, whole[measure], s=7, color="#aaaaaa", linewidth=0, zorder=2)
    look = {"where": "post", "color": SEARCHED, "linewidth": 2, "zorder": 4}
    axes.step(tried.tokens, curve, **look)
    ends = _ends(tried, axes.get_ylim()[1])
    for end in ends[1:]:
        axes.axhline(end.y, color=end.colour, linewidth=0.9, linestyle=DASHES, zorder=1)
    name_ends(axes, ends)
    note_above(axes, whole[measure], "candidate")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set(xlabel="tokens forwarded", ylabel=LABELS[measure])
    if any("≈" in end.label for end in ends):
        text, look = "≈ from some documents", {"fontsize": 7, "color": "#777777"}
        axes.text(1.05, -0.08, text, transform=axes.transAxes, va="top", **look)


def _ends(tried: pd.DataFrame, top: float) -> list[End]:
    """The line of what was found and those of the starts; what ends above `top` is only named."""
    measure = minimised(tried)
    last, best = tried.tokens.iloc[-1], tried[f"best_{measure}"].iloc[-1]
    ends = [End(f"{_ended(tried)} {best:.4g}", last, best, SEARCHED, bold=True)]
    for _, start in shown_starts(tried).iterrows():
        if start.found:  # the line of the best ends there, and names it
            continue
        (label, form), value = start_label(start.start), start[measure]
        label += " ≈" if start.documents < tried.documents.max() else ""
        label += f" {value:.4g}" if value <= top else ""  # else `name_ends` writes it
        ends.append(End(label, last, value, _start_colour(form)))
    return ends


def _ended(tried: pd.DataFrame) -> str:
    """What the line of the best ends at: what was found, or a start that nothing beat."""
    start = own_start(tried[tried.found].iloc[0].start)
    return f"none better than {start_label(start)[0]}" if start else "found"


def _draw_factors(axes: Axes, found: RescaleFactors, tried: pd.DataFrame) -> None:
    lambda_, pairs = np.array(found.lambda_), range(len(found.lambda_))
    base = lambda_ / tried[tried.found].iloc[0].mu  # ones, or the factors that it multiplies
    axes.set_yscale("log", base=2)
    axes.plot(pairs, lambda_, "o-", color=SEARCHED, linewidth=2.2, zorder=5, label=_ended(tried))
    for start in shown_starts(tried).itertuples():
        if start.found:
            continue
        look = {"color": _start_colour(start.form), "linewidth": 1.1, "alpha": 0.75}
        axes.plot(pairs, base * start.mu, label=start_label(start.start)[0], **look)
    axes.set_xlim(-0.5, len(pairs) - 0.5)  # also where lambda is infinite: that is not drawn
    axes.yaxis.set_major_locator(LogLocator(2))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="RoPE pair, fastest first", ylabel="lambda (log scale)")
    axes.set_title("Rescale factors")
    axes.legend(fontsize=8, frameon=False)
