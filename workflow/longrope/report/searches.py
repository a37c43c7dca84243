"""
What every search cost: the table `searches`, and the rows that it shares with the table `fitness`.

A row is a search at one window, with all of its seeds, or a closed form that was measured there.
Cost counts tokens forwarded, also against the paper's algorithm: the variant called `search-paper`,
if there is one. A cell averages the seeds that it has and says so if some are missing.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from statistics import fmean, geometric_mean, stdev

import pandas as pd

from longrope.baselines import is_closed_form
from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.config.search import SearchSettings
from longrope.report.labels import row_label
from longrope.report.lines import BLOWN_UP, number
from longrope.report.load import Evaluation, chosen, of_task
from longrope.report.sources import Sources
from longrope.report.table import FACTOR, LABEL, NO_ROWS, NOTHING, Table
from longrope.report.trace import Spent
from longrope.study import (
    ON_TUNED,
    factors_path,
    search_settings,
    searched,
    searches,
    trace_path,
)
from longrope.targets import evaluations
from longrope.windows import window_label

PAPER = "search-paper"  # the variant that runs the paper's algorithm
PAPER_ROW = "search: paper"  # what its row is called
START = ("model", "text", "window", LABEL)  # the first columns of both tables
FOUND = "what was found"
WHAT, UNTIL, RATIO = "what is searched", "M tokens to the paper's", "times fewer"
CAPTION = "What every search cost."
NOTE = (
    f"`{FOUND}`: a candidate of the search, or a start that none of them beat. Tokens (M: millions)"
    " are all that it forwarded, those of needles too. Validation perplexity is that of the best"
    " candidate (by the search's own fitness) on"
    " all of its validation documents, from which a seed draws windows of its own: seeds differ by"
    " their text, too. Held-out perplexity is on the test documents. Seeds of a variant are one"
    " row: mean ± standard error over seeds, or mean (lowest to highest); `1 of 3` says that not"
    " all seeds count."
)
AGAINST_PAPER = (
    f" `{UNTIL}`: tokens forwarded until the search's best validation perplexity was for the first"
    f" time at most the final one of `{PAPER_ROW}` with the same seed, window and documents."
    f" `{RATIO}`: tokens after which `{PAPER_ROW}` first had that itself, over those; the geometric"
    " mean over seeds. Seeds that never get there are left out of both, which flatters; `2 of 3`"
    " counts those that do."
)


@dataclass(frozen=True, slots=True)
class Row:
    """A closed form, or a search with all of its seeds, at one window."""

    model: str
    text: str  # name of the evaluation of perplexity
    weights: str
    window: int
    name: str  # of the method, without a seed
    methods: tuple[str, ...]  # one a seed
    spent: dict[str, Spent]  # by method; of searches with a trace
    perplexity: list[Evaluation]  # of those methods, measured at the window
    passkey: list[Evaluation]

    @property
    def group(self) -> tuple[str, str, str, int]:
        """What rows are compared within."""
        return self.model, self.text, self.weights, self.window

    @property
    def searched(self) -> bool:
        """Whether it is a search, not a closed form."""
        return not _is_closed(self.name)

    @property
    def seeds(self) -> int:
        """How many seeds were asked for."""
        return len(self.methods)


def rows_of(config: Config, sources: Sources) -> list[Row]:
    """Every search, and every closed form that was measured where one is: by window, forms first.

    On tuned weights, the second search is measured as part of the extended model, if not alone.
    Passkeys stand beside every text. What was not made for these tables has no row.
    """
    rows = []
    retrieved = of_task(sources.evaluations, "passkey")
    for model, text, asked in evaluations(config, "perplexity"):
        if not {"searches", "fitness"} & set(asked.shown_in):
            continue
        settings = config.models[model]
        scored = [each for each in sources.evaluations if (each.model, each.name) == (model, text)]
        variants: dict[str, list[str]] = {}
        for method in searches(settings):
            variants.setdefault(without_seed(settings, method), []).append(method)
        for weights in (BASE, *settings.tunings):
            windows = {name: searched(settings, weights, variants[name][0]) for name in variants}
            for window in sorted(set().union(*windows.values())):
                here = [
                    [each for each in chosen(task, model, {weights}) if window in each.factors]
                    for task in (scored, retrieved)
                ]
                measured = [each.method for task in here for each in task]
                closed = {method: [method] for method in measured if _is_closed(method)}
                asked = {name: variants[name] for name in variants if window in windows[name]}
                for name, methods in (closed | asked).items():
                    paths = {
                        each: trace_path(factors_path(model, weights, each, window))
                        for each in methods
                    }
                    spent = {
                        each: sources.traces[path]
                        for each, path in paths.items()
                        if path in sources.traces
                    }
                    found = [_measured(task, methods) for task in here]
                    tuned_with = any(each.method in methods for each in settings.tunings.values())
                    if spent or any(found) or tuned_with:
                        place = (model, text, weights, window)
                        rows.append(Row(*place, name, tuple(methods), spent, *found))
    return rows


def _measured(evaluations: list[Evaluation], methods: list[str]) -> list[Evaluation]:
    found = [each for each in evaluations if each.method in methods]
    if not found and methods == ["search"]:
        found = [each for each in evaluations if each.method == "extended"]
    return found


def _is_closed(method: str) -> bool:
    return is_closed_form(method.removesuffix(ON_TUNED))


def without_seed(settings: ModelSettings, method: str) -> str:
    """The variant that a search is of; any other method as it is."""
    _, seed = searches(settings).get(method, (None, None))
    return method if seed is None else method.removesuffix(f"-seed{seed}")


# --- cost -------------------------------------------------------------------------------------


def searches_table(config: Config, sources: Sources) -> Table:
    """What every search forwarded, in all and until it was as good as the paper's algorithm."""
    rows = rows_of(config, sources)
    lines, papers = [], {row.group: row for row in rows if row.name == PAPER}
    rows = [row for row in rows if row.searched]
    for row in rows:
        settings = search_settings(config, row.model, row.weights, row.methods[0], row.window)
        final = [spent.best[-1] for spent in row.spent.values() if spent.best[-1]]
        paper = papers.get(row.group)
        until, ratio = _until_paper(config, row, paper) if paper else (NOTHING, NOTHING)
        lines.append(
            start_cells(config, row)
            | {
                WHAT: describe(settings),
                "seeds": str(row.seeds),
                FOUND: _ended(list(row.spent.values())),
                "M tokens": _ranged([each.tokens[-1] for each in row.spent.values()], row.seeds),
                UNTIL: until,
                RATIO: ratio,
                "validation perplexity": _spread(final, row.seeds),
                "held-out perplexity": perplexity_cell(row.perplexity, row),
            }
        )
    columns = [*START, WHAT, "seeds", FOUND, FACTOR, "M tokens", UNTIL, RATIO]
    columns += ["validation perplexity", "held-out perplexity"]
    optional = {UNTIL: AGAINST_PAPER, RATIO: ""}
    table = table_of("searches", CAPTION, NOTE, columns, optional, rows, lines, words=WHAT)
    spent = [each.tokens[-1] for row in rows for each in row.spent.values()]
    found = f"{len(spent)} searches forwarded {sum(spent) / 1e6:.1f}M tokens in all."
    return replace(table, found=found) if spent else table


def _until_paper(config: Config, row: Row, paper: Row) -> tuple[str, str]:
    """Cells: tokens until each seed was as good as the paper's, and how many times fewer."""

    def text(method: str) -> tuple[int, int]:
        """What decides, beside the window, which text a search is scored on."""
        settings = search_settings(config, row.model, row.weights, method, row.window)
        return settings.seed, settings.budget.documents

    papers = {text(method): spent for method, spent in paper.spent.items()}
    tokens, ratios, pairs = [], [], 0
    for method, ours in row.spent.items():
        theirs = papers.get(text(method))
        if not theirs or not (goal := theirs.best[-1]):
            continue
        pairs += 1
        if until := ours.until(goal):
            tokens.append(until)
            ratios.append(theirs.until(goal) / until)
    if not pairs:
        return NOTHING, NOTHING
    if not tokens:
        return f"never (0 of {pairs})", NOTHING
    return _ranged(tokens, pairs), counted(f"{geometric_mean(ratios):.2g}", len(ratios), pairs)


def describe(settings: SearchSettings) -> str:
    """What a search is, in few words: `bayesian, paper space, perplexity + 0.1 needle`."""
    optimiser, space = settings.budget.optimiser or settings.optimiser, settings.space
    search = optimiser.name + (" with racing" if getattr(optimiser, "racing", False) else "")
    with_n_hat = "n_hat" in space.vary
    if "lambda" not in space.vary:
        search, region = "every n_hat", "of the starts"
    elif space.kind == "critical":
        region = "critical space" + (" with n_hat" if with_n_hat else "")
        pairs = {"searched": "", "theoretical": ", pair by theory"}
        region += pairs.get(space.pair, f" from pair {space.pair}")
    else:
        region = "paper space" + ("" if with_n_hat else " without n_hat")
        region += "" if space.monotone else ", not monotone"
    fitness = settings.fitness
    weights = {
        "perplexity": fitness.perplexity,
        "needle": fitness.needle,
        "long tokens": fitness.long_tokens,
    }
    parts = [
        words if weight == 1 else f"{weight:g} {words}"
        for words, weight in weights.items()
        if weight
    ]
    factor = settings.attention_factor
    factor = "searched" if factor == "search" else factor
    attention = [] if factor == "none" else [f"attention factor {factor}"]
    return ", ".join([search, region, " + ".join(parts), *attention])


# --- cells and the table that they make -------------------------------------------------------


def _ended(spent: list[Spent]) -> str:
    """What searches ended with: how many of them each, if they differ."""
    counts = Counter(each.ended for each in spent if each.ended)
    parts = [f"{count} x {each}" if len(counts) > 1 else each for each, count in counts.items()]
    return "; ".join(parts) or NOTHING


def start_cells(config: Config, row: Row) -> dict[str, str]:
    """What both tables say of a row: model, window, label and attention factor."""
    used = [each.factors[row.window] for each in (*row.perplexity, *row.passkey)]
    factors = [f"{each:.4g}" for each in sorted({each["attention_factor"] for each in used})]
    return {
        "model": row.model,
        "text": row.text,
        "window": window_label(row.window),
        LABEL: row_label(config.models[row.model], row.weights, row.name),
        FACTOR: " to ".join(dict.fromkeys([factors[0], factors[-1]])) if factors else NOTHING,
    }


def perplexity_cell(evaluations: list[Evaluation], row: Row) -> str:
    """Perplexity of a row's seeds at its window, as these evaluations measured it."""
    found = [each.results[row.window]["perplexity"] for each in evaluations]
    return _spread(found, row.seeds)


def counted(text: str, count: int, total: int) -> str:
    """A cell over some of the seeds says so: `2.5 (2 of 3)`."""
    return f"{text} ({count} of {total})" if count < total else text


def _spread(values: list[float], seeds: int) -> str:
    """Mean and standard error."""
    if not values:
        return NOTHING
    mean = fmean(values)
    told = len(values) > 1 and mean < BLOWN_UP  # of what has only a power of ten, no error
    error = f" ± {stdev(values) / math.sqrt(len(values)):.2g}" if told else ""
    return counted(f"{number(mean)}{error}", len(values), seeds)


def _ranged(tokens: list[int], seeds: int) -> str:
    """Mean, lowest and highest, in millions."""
    if not tokens:
        return NOTHING
    mean, low, high = (f"{each / 1e6:.3g}" for each in (fmean(tokens), min(tokens), max(tokens)))
    return counted(mean + (f" ({low} to {high})" if low != high else ""), len(tokens), seeds)


def table_of(
    name: str,
    caption: str,
    note: str,
    columns: list[str],
    optional: dict[str, str],
    rows: list[Row],
    lines: list[dict[str, str]],
    words: str,
) -> Table:
    """The table of one line of cells a row, with a rule between groups.

    An `optional` column is left out where no line has it, and with it what it adds to the note.
    `words` is the column that holds words, not numbers.
    """
    empty = {each for each in optional if all(line[each] == NOTHING for line in lines)}
    note += "".join(words for column, words in optional.items() if column not in empty)
    caption += "" if lines else NO_ROWS
    groups = [row.group for row in rows]
    rules = {n for n, group in enumerate(groups) if n and group != groups[n - 1]}
    frame = pd.DataFrame(lines, columns=[each for each in columns if each not in empty])
    return Table(name, caption, frame, note, rules=frozenset(rules), left=(*START, words, FOUND))
