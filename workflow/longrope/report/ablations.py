"""
The paper's ablations for whatever was configured: Tables 1, 2, 3, 11 and 12.

Each is a view of evaluations that the configuration says are shown there; no code here runs
anything. A row that the configuration does not evaluate is not there.
"""

from longrope.baselines import is_closed_form, parts_of
from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.report.labels import method_label, row_label, weights_label
from longrope.report.lines import Group, Line, perplexity_table
from longrope.report.load import Evaluation, chosen
from longrope.report.paper import Number, paper_length, paper_method, paper_numbers, paper_rows
from longrope.report.sources import Sources
from longrope.report.table import Column, Table, Written, length_column
from longrope.study import ON_TUNED
from longrope.windows import window_label


def table01(config: Config, sources: Sources) -> Table:
    """Non-uniform factors against closed forms, without tuning."""
    groups = []
    for model, text, own in sources.texts(config):
        lines = [
            Line(
                method_label(config.models[model], BASE, each.method),
                {length_column(length): (each, length) for length in each.lengths},
            )
            for each in chosen(own, model, {BASE})
        ]
        groups.append(Group(model, text, [lines]))

    def printed(base: str) -> list[Written]:
        numbers = paper_numbers(sources.paper, "table1", base)
        return paper_rows(numbers, paper_method, paper_length)

    caption = (
        "Without tuning: factors searched for every pair against closed forms (NTK with the ratio"
        " of each length is the paper's Dynamic NTK). The counterpart of the paper's Table 1."
    )
    return perplexity_table("table01", caption, config, groups, printed)


def table02(config: Config, sources: Sources) -> Table:
    """What it does to leave the first n_hat tokens as they are."""
    groups = []
    for model, text, own in sources.texts(config):
        lines: dict[tuple[str, int], Line] = {}
        for each in chosen(own, model, {BASE}):
            if not is_closed_form(each.method):
                continue
            form, pair, n_hat = parts_of(each.method)
            method = form if pair is None else f"{form}-c{pair}"
            for length in each.lengths:
                label = method_label(config.models[model], BASE, method)
                line = Line(f"{label}, {window_label(length)}", {})
                line = lines.setdefault((method, length), line)
                line.put(_n_hat_column(n_hat or 0), each, length)
        groups.append(Group(model, text, [[lines[key] for key in sorted(lines)]]))

    def printed(base: str) -> list[Written]:
        return paper_rows(
            [_with_n_hat(line) for line in paper_numbers(sources.paper, "table2", base)],
            lambda line: f"{paper_method(line)}, {paper_length(line).heading}",
            lambda line: _n_hat_column(int(line["n_hat"])),
        )

    caption = (
        "Without tuning: closed forms that leave the first n_hat tokens at their original"
        " positions. The counterpart of the paper's Table 2."
    )
    return perplexity_table("table02", caption, config, groups, printed, within_lines=True)


def _with_n_hat(line: Number) -> Number:
    setting, _, n_hat = line["setting"].rpartition(", n_hat=")
    return line | {"setting": setting, "n_hat": n_hat}


def _n_hat_column(n_hat: int) -> Column:
    return Column((n_hat,), f"n_hat = {n_hat}")


def table03(config: Config, sources: Sources) -> Table:
    """The same factors before and after tuning with them."""
    groups = []
    for model, text, own in sources.texts(config):
        groups.append(Group(model, text, [_before_and_after(config.models[model], own)]))

    def printed(base: str) -> list[Written]:
        return paper_rows(
            paper_numbers(sources.paper, "table3", base),
            _untuned_name,
            lambda line: _tuned_column(int(line["length"]), bool(line["fine_tune_window"])),
            one_row=True,
        )

    caption = (
        "The same window with the same factors, before and after tuning with them on the same"
        " data. The counterpart of the paper's Table 3."
    )
    return perplexity_table("table03", caption, config, groups, printed)


def _before_and_after(settings: ModelSettings, own: list[Evaluation]) -> list[Line]:
    """A line for every method; for every tuning, if several tuned one method at one window."""
    untuned = {each.method: each for each in own if each.weights == BASE}
    tuned: dict[str, list[Evaluation]] = {}
    for each in own:
        if each.method == "tuned":
            tuned.setdefault(settings.tunings[each.weights].method, []).append(each)
    lines = []
    for method in dict.fromkeys([*untuned, *tuned]):
        label, after = method_label(settings, BASE, method), tuned.get(method, [])
        windows = [settings.tunings[each.weights].window for each in after]
        apart = len(set(windows)) < len(windows)
        for rows in [[each] for each in after] if apart else [after]:
            line = Line(f"{label}: {rows[0].weights}" if apart else label, {})
            lines.append(line)
            for each in [untuned[method]] if method in untuned else []:
                for length in each.lengths:
                    line.put(_tuned_column(length, False), each, length)
            for each in rows:
                if (window := settings.tunings[each.weights].window) in each.lengths:
                    line.put(_tuned_column(window, True), each, window)
    return lines


def _tuned_column(length: int, tuned: bool) -> Column:
    return Column((length, tuned), f"{window_label(length)}, {'tuned' if tuned else 'untuned'}")


def _untuned_name(line: Number) -> str:
    return paper_method(line | {"fine_tune_window": ""})


def table11(config: Config, sources: Sources) -> Table:
    """What each of the two non-uniformities brings, in the first search and in the second."""
    found = list(sources.texts(config))
    texts: dict[tuple[bool, int], set[str]] = {}
    for _, text, own in found:
        for each in own:
            for length in each.lengths:
                texts.setdefault((each.weights != BASE, length), set()).add(text)
    groups = []
    for model in dict.fromkeys(model for model, _, _ in found):
        own = [each for name, _, evaluations in found for each in evaluations if name == model]
        lines: dict[str, Line] = {}
        for each in own:
            label = _plain(config.models[model], each)
            for length in each.lengths:
                place = each.weights != BASE, length
                text = each.name if len(texts[place]) > 1 else ""
                line = lines.setdefault(label, Line(label, {}))
                line.put(_search_column(*place, text), each, length)
        names = ", ".join(dict.fromkeys(each.name for each in own))
        groups.append(Group(model, names, [list(lines.values())]))

    def printed(base: str) -> list[Written]:
        return paper_rows(
            paper_numbers(sources.paper, "table11", base),
            _untuned_name,
            lambda line: _search_column(bool(line["fine_tune_window"]), int(line["length"])),
            one_row=True,
        )

    caption = (
        "Factors for every pair alone, and with n_hat: without tuning, and in the second search."
        " The counterpart of the paper's Table 11."
    )
    return perplexity_table("table11", caption, config, groups, printed)


def _search_column(second: bool, length: int, text: str = "") -> Column:
    """A length of the first or the second search; with the text where two have such a length."""
    kind = "second interpolation" if second else "untuned"
    heading = f"{window_label(length)}, {kind}" + (f" ({text})" if text else "")
    return Column((second, length, text), heading)


def _plain(settings: ModelSettings, evaluation: Evaluation) -> str:
    """What a method is called in the first search and in the second."""
    method = evaluation.method.removesuffix(ON_TUNED)
    if method == "extended":
        return method_label(settings, BASE, "search")
    weights = evaluation.weights if method in ("tuned", "longest") else BASE
    return method_label(settings, weights, method).partition(" (from")[0]


def table12(config: Config, sources: Sources) -> Table:
    """Routes to the second window: from the original model or step by step, on shorter text."""
    groups = []
    for model, text, own in sources.texts(config):
        lines = [
            Line(
                _route(config.models[model], each),
                {length_column(length): (each, length) for length in each.lengths},
            )
            for each in own
            if each.weights != BASE
        ]
        groups.append(Group(model, text, [lines]))

    def printed(base: str) -> list[Written]:
        return paper_rows(
            paper_numbers(sources.paper, "table12", base),
            lambda line: f"{line['setting']}: {paper_method(line)}",
            paper_length,
        )

    caption = (
        "Routes to the second window: the text of the tuning, the window whose factors it used and"
        " what it started from. The counterpart of the paper's Table 12."
    )
    return perplexity_table("table12", caption, config, groups, printed)


def _route(settings: ModelSettings, evaluation: Evaluation) -> str:
    """`text 1k, window 2k, from untuned: longrope-2k-short, ...`."""
    tuning = settings.tunings[evaluation.weights]
    label = row_label(settings, evaluation.weights, evaluation.method)
    return (
        f"text {window_label(tuning.length or tuning.window)}, window"
        f" {window_label(tuning.window)}, from {weights_label(tuning.start)}: {label}"
    )
