"""
The paper's ablations for whatever was configured: Tables 1, 2, 3, 11 and 12.

Each is a view of evaluations that the configuration says are shown there; no code here runs
anything. A row that the configuration does not evaluate is not there.
"""

from longrope.baselines import is_closed_form, parts_of
from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.report.lines import Group, Line, perplexity_table
from longrope.report.load import (
    Evaluation,
    chosen,
    method_label,
    paper_length,
    paper_method,
    paper_numbers,
    paper_rows,
    row_label,
    weights_label,
)
from longrope.report.sources import Sources
from longrope.report.table import Table
from longrope.study import ON_TUNED
from longrope.windows import window_label


def table01(config: Config, sources: Sources) -> Table:
    """Non-uniform factors against closed forms, without tuning."""
    groups, lengths = [], set()
    for model, text, own in sources.texts(config):
        block = chosen(own, model, {BASE})
        lengths |= {length for each in block for length in each.lengths}
        lines = [
            Line(
                method_label(config.models[model], BASE, each.method),
                {window_label(length): (each, length) for length in each.lengths},
            )
            for each in block
        ]
        numbers = paper_numbers(sources.paper, "table1", model)
        printed = paper_rows(numbers, paper_method, paper_length)
        groups.append(Group(model, text, [lines], printed))
    caption = (
        "Without tuning: factors searched for every pair against closed forms (NTK with the ratio"
        " of each length is the paper's Dynamic NTK). The counterpart of the paper's Table 1."
    )
    return perplexity_table("table01", caption, list(map(window_label, sorted(lengths))), groups)


def table02(config: Config, sources: Sources) -> Table:
    """What it does to leave the first n_hat tokens as they are."""
    groups, tried = [], set()
    for model, text, own in sources.texts(config):
        lines: dict[tuple[str, int], Line] = {}
        for each in chosen(own, model, {BASE}):
            if not is_closed_form(each.method):
                continue
            form, _, n_hat = parts_of(each.method)
            n_hat = n_hat or 0
            tried.add(n_hat)
            for length in each.lengths:
                label = f"{method_label(config.models[model], BASE, form)}, {window_label(length)}"
                line = lines.setdefault((form, length), Line(label, {}))
                line.cells[_n_hat_column(n_hat)] = (each, length)
        numbers = []
        for printed in paper_numbers(sources.paper, "table2", model):
            setting, _, n_hat = printed["setting"].rpartition(", n_hat=")
            numbers.append(printed | {"setting": setting, "n_hat": n_hat})
        printed = paper_rows(
            numbers,
            lambda line: f"{paper_method(line)}, {paper_length(line)}",
            lambda line: _n_hat_column(int(line["n_hat"])),
        )
        groups.append(Group(model, text, [[lines[key] for key in sorted(lines)]], printed))
    caption = (
        "Without tuning: closed forms that leave the first n_hat tokens at their original"
        " positions. The counterpart of the paper's Table 2."
    )
    columns = [_n_hat_column(each) for each in sorted(tried)]
    return perplexity_table("table02", caption, columns, groups, within_lines=True)


def _n_hat_column(n_hat: int) -> str:
    return f"n_hat = {n_hat}"


def table03(config: Config, sources: Sources) -> Table:
    """The same factors before and after tuning with them."""
    groups, columns = [], {}
    for model, text, own in sources.texts(config):
        settings = config.models[model]
        lines: dict[str, Line] = {}
        for each in own:
            tuning = settings.tunings.get(each.weights)
            if tuning and each.method != "tuned":
                continue
            method = tuning.method if tuning else each.method
            line = lines.setdefault(method, Line(method_label(settings, BASE, method), {}))
            for length in each.lengths:
                if not tuning or length == tuning.window:
                    column = f"{window_label(length)}, {'tuned' if tuning else 'untuned'}"
                    columns[length, bool(tuning)] = column
                    line.cells[column] = (each, length)
        printed = paper_rows(
            paper_numbers(sources.paper, "table3", model),
            lambda line: paper_method(line | {"fine_tune_window": ""}),
            lambda line: "{}, {}".format(
                paper_length(line), "tuned" if line["fine_tune_window"] else "untuned"
            ),
        )
        groups.append(Group(model, text, [list(lines.values())], printed))
    caption = (
        "The same window with the same factors, before and after tuning with them on the same"
        " data. The counterpart of the paper's Table 3."
    )
    return perplexity_table("table03", caption, [columns[key] for key in sorted(columns)], groups)


def table11(config: Config, sources: Sources) -> Table:
    """What each of the two non-uniformities brings, in the first search and in the second."""
    groups, columns = [], {}
    for model, settings in config.models.items():
        own = [each for _, _, found in sources.texts(config) for each in found]
        own = [each for each in own if each.model == model]
        lines: dict[str, Line] = {}
        for each in own:
            second, label = each.weights != BASE, _plain(settings, each)
            line = lines.setdefault(label, Line(label, {}))
            for length in each.lengths:
                column = f"{window_label(length)}, {_kind(second)} ({each.name})"
                columns[second, length, each.name] = column
                line.cells[column] = (each, length)
        printed = paper_rows(
            paper_numbers(sources.paper, "table11", model),
            lambda line: paper_method(line | {"fine_tune_window": ""}),
            lambda line: f"{paper_length(line)}, {_kind(bool(line['fine_tune_window']))}",
        )
        if lines or printed:
            texts = ", ".join(dict.fromkeys(each.name for each in own))
            groups.append(Group(model, texts, [list(lines.values())], printed))
    caption = (
        "Factors for every pair alone, and with n_hat: without tuning, and in the second search."
        " The counterpart of the paper's Table 11."
    )
    return perplexity_table("table11", caption, [columns[key] for key in sorted(columns)], groups)


def _kind(second: bool) -> str:
    return "second interpolation" if second else "untuned"


def _plain(settings: ModelSettings, evaluation: Evaluation) -> str:
    """What a method is called in the first search and in the second."""
    method = evaluation.method.removesuffix(ON_TUNED)
    if method == "extended":
        return method_label(settings, BASE, "search")
    weights = evaluation.weights if method == "tuned" else BASE
    return method_label(settings, weights, method).partition(" (from")[0]


def table12(config: Config, sources: Sources) -> Table:
    """Routes to the second window: from the original model or step by step, on shorter text."""
    groups, lengths = [], set()
    for model, text, own in sources.texts(config):
        settings = config.models[model]
        block = [each for each in own if each.weights != BASE]
        lengths |= {length for each in block for length in each.lengths}
        lines = [
            Line(
                _route(settings, each),
                {window_label(length): (each, length) for length in each.lengths},
            )
            for each in block
        ]
        printed = paper_rows(
            paper_numbers(sources.paper, "table12", model), paper_method, paper_length
        )
        groups.append(Group(model, text, [lines], printed))
    caption = (
        "Routes to the second window: the text of the tuning, the window whose factors it used and"
        " what it started from. The counterpart of the paper's Table 12."
    )
    return perplexity_table("table12", caption, list(map(window_label, sorted(lengths))), groups)


def _route(settings: ModelSettings, evaluation: Evaluation) -> str:
    """`text 1k, window 2k, from untuned: longrope-2k-short, ...`."""
    tuning = settings.tunings[evaluation.weights]
    label = row_label(settings, evaluation.weights, evaluation.method)
    return (
        f"text {window_label(tuning.length or tuning.window)}, window"
        f" {window_label(tuning.window)}, from {weights_label(tuning.start)}: {label}"
    )
