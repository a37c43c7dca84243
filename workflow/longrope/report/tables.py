"""
The paper's tables for whatever was configured, each as csv, md, html and tex with the same cells.

A table says by itself how its numbers came about: the caption gives the protocol, every row its
attention factor, the last row of a model how much was scored. The paper's own numbers appear only
with a model that the paper has, and are never weighed against ours: other data, other tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from longrope.config import BASE, Config
from longrope.files import write_text
from longrope.report.load import (
    Evaluation,
    PaperRow,
    accuracies,
    chosen,
    drills,
    paper_rows,
    perplexities,
    read_evaluations,
    row_label,
)
from longrope.report.page import page_of
from longrope.report.statistics import compare
from longrope.windows import window_label

LABEL, FACTOR, TUNED_ON = "weights, method", "attention factor", "other than text in tuning"
TEXT_COLUMNS = ("model", LABEL, "source", FACTOR, "protocol", TUNED_ON)  # aligned left
NOTHING = "–"  # a cell without a number
PERPLEXITY = (
    "Perplexity is exp(mean loss) over all scored tokens of held-out documents, without a cache;"
    " the last row of a model says how many windows of how many documents were scored (joined: made"
    " of several). Bold: the lowest of a column, among tuned and among untuned rows, and every row"
    " that the paired comparison on the same tokens (95% bootstrap over documents) does not tell"
    " from it; with one document, the lowest alone. The attention factor multiplies cos and sin; a"
    " range where it depends on the length."
)
PASSKEY = (
    "Per cent of passkeys found, with the 95% Wilson interval: a key at a random depth of the"
    " paper's filler text, prompt and answer together of exactly the length; greedy decoding; only"
    " the key itself counts. Every method reads the same prompts. `other than text in tuning` is"
    " the share of passkey documents (digits-K, word) and other drills in the data that the"
    " weights were tuned on, tuning after tuning; a model's card tells of its pre-training."
)
PRINTED = " Rows from `paper` are printed there: other data, not to be compared with ours."
NO_ROWS = " This configuration evaluates nothing that would stand in this table."


@dataclass(frozen=True, slots=True)
class Table:
    """A table ready to be written: its cells are text."""

    name: str  # of the files
    caption: str  # one paragraph
    frame: pd.DataFrame
    bold: frozenset[tuple[int, str]] = frozenset()  # (row, column)
    rules: frozenset[int] = frozenset()  # rows with a line above
    left: tuple[str, ...] = TEXT_COLUMNS  # columns aligned left


def make_tables(
    config: Config, perplexity: list[Path], passkey: list[Path], paper: Path, out: Path
) -> None:
    """Write every table into the folder `out`; one that has no rows says so in its caption."""
    scored = read_evaluations(config, perplexity, "perplexity")
    for make in (table06, table09, table10):
        table = make(config, scored, paper)
        write_table(table, out / table.name)
    retrieved = read_evaluations(config, passkey, "passkey")
    write_table(passkey_table(config, retrieved), out / "passkey")


def table06(config: Config, evaluations: list[Evaluation], paper: Path) -> Table:
    """Every method of every checkpoint, at every length."""
    parts = []
    for model, settings in config.models.items():
        groups = [chosen(evaluations, model, {BASE}), chosen(evaluations, model, settings.tunings)]
        parts.append(_Part(model, groups, None, paper_rows(paper, "table6", model)))
    caption = (
        "Perplexity by context length, every evaluated method and checkpoint: the counterpart of"
        f" the paper's Table 6. {PERPLEXITY}"
    )
    return _perplexity_table("table06", caption, config, parts, {})


def table09(config: Config, evaluations: list[Evaluation], paper: Path) -> Table:
    """The second search against closed forms, where the weights were never tuned."""
    parts = []
    for model, settings in config.models.items():
        if extension := settings.extension:
            methods = {each.method for each in evaluations} - {"longest"}
            group = chosen(evaluations, model, {extension.weights}, methods)
            printed = paper_rows(paper, "table9", model)
            parts.append(_Part(model, [group], set(extension.search), printed))
    caption = (
        "Beyond the tuned window without further tuning: searched again (extended) against closed"
        " forms, from the original window or multiplied onto the tuned factors. The counterpart of"
        f" the paper's Table 9. {PERPLEXITY}"
    )
    return _perplexity_table("table09", caption, config, parts, {})


def table10(config: Config, evaluations: list[Evaluation], paper: Path) -> Table:
    """Short windows of the extended model, before and after recovery."""
    parts = []
    for model, settings in config.models.items():
        if extension := settings.extension:
            ours = chosen(evaluations, model, {extension.weights}, {"longest", "extended", "tuned"})
            groups = [ours, chosen(evaluations, model, {BASE}, {"none"})]
            printed = paper_rows(paper, "table10", model)
            parts.append(_Part(model, groups, set(extension.recovery), printed))
    caption = (
        "Short windows of the extended model: with the factors of its longest window at every"
        " length (without recovery), with its recovered factors, and with the factors that it was"
        " tuned with; last the pre-trained model, as it was. The counterpart of the perplexities"
        f" in the paper's Table 10. {PERPLEXITY}"
    )
    notes = {"longest": ", without recovery", "extended": ", with recovery"}
    return _perplexity_table("table10", caption, config, parts, notes)


def passkey_table(config: Config, evaluations: list[Evaluation]) -> Table:
    """Passkeys found, by length; the paper shows its own in Figure 4 only, without numbers."""
    frame, rows, rules = accuracies(evaluations), [], set()
    for model, settings in config.models.items():
        if (own := frame[frame.model == model]).empty:
            continue
        rules.add(len(rows))
        for each in chosen(evaluations, model, {BASE, *settings.tunings}):
            mine = own[(own.weights == each.weights) & (own.method == each.method)]
            cells = {
                row.length: f"{100 * row.accuracy:.0f} [{100 * row.low:.0f}, {100 * row.high:.0f}]"
                for row in mine.itertuples()
            }
            protocol = f"key {each.protocol['key']}, {each.protocol['decoding']}"
            row = _row(model, row_label(settings, each.weights, each.method), cells)
            row |= {FACTOR: _range(mine.attention_factor), "protocol": protocol}
            rows.append(row | {TUNED_ON: drills(settings, each.weights)})
        amounts = own.groupby("length").prompts.unique()
        prompts = {int(key): " or ".join(map(str, each)) for key, each in amounts.items()}
        rules.add(len(rows))
        rows.append(_row(model, "prompts", prompts))
    caption = f"Passkey retrieval by length: the counterpart of the paper's Figure 4. {PASSKEY}"
    return _finished("passkey", caption, rows, rules=rules)


# --- perplexity -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """What one model brings to a table."""

    model: str
    groups: list[list[Evaluation]]  # rows that are compared with each other
    lengths: set[int] | None  # columns; None = all that were evaluated
    printed: list[PaperRow]


def _perplexity_table(
    name: str, caption: str, config: Config, parts: list[_Part], notes: dict[str, str]
) -> Table:
    rows, bold, rules = [], set(), set()
    for part in parts:
        frame = perplexities(each for group in part.groups for each in group)
        if part.lengths is not None:
            frame = frame[frame.length.isin(part.lengths)]
        for group in part.groups:
            first = len(rows)
            for each in group:
                mine = frame[(frame.weights == each.weights) & (frame.method == each.method)]
                if mine.empty:
                    continue
                label = row_label(config.models[part.model], each.weights, each.method)
                cells = {row.length: _number(row.perplexity) for row in mine.itertuples()}
                best = {length for length in cells if _unbeaten(each, group, length, frame)}
                bold |= {(len(rows), length) for length in best}
                row = _row(part.model, label + notes.get(each.method, ""), cells)
                row |= {FACTOR: _range(mine.attention_factor), "protocol": _protocol(each)}
                rows.append(row)
            if len(rows) > first:
                rules.add(first)
        if not frame.empty:
            rules.add(len(rows))
            amounts = {int(length): _amount(group) for length, group in frame.groupby("length")}
            rows.append(_row(part.model, "windows (of documents) scored", amounts))
        rules |= {len(rows)} if part.printed else set()
        for each in part.printed:
            row = _row(part.model, each.label, each.cells)
            rows.append(row | {"source": "paper", "protocol": each.protocol})
    caption += PRINTED if any(part.printed for part in parts) else ""
    return _finished(name, caption, rows, bold, rules)


def _unbeaten(
    evaluation: Evaluation, group: list[Evaluation], length: int, frame: pd.DataFrame
) -> bool:
    """Whether the best row of the group is not told apart from this one at a length."""
    rivals = [each for each in group if length in each.lengths]
    if len(rivals) < 2:
        return False
    here = frame[frame.length == length].set_index(["weights", "method"]).perplexity
    best = min(rivals, key=lambda each: here[each.weights, each.method])
    if best.runs_as(evaluation, length):
        return True
    return compare(best.at(length), evaluation.at(length), length).outcome == "tie"


def _amount(group: pd.DataFrame) -> str:
    """How much one length scored; rows that scored different amounts are seen to."""
    texts = [
        f"{row.windows} ({row.documents}{f', {row.joined} joined' if row.joined else ''})"
        for row in group.itertuples()
    ]
    return " or ".join(dict.fromkeys(texts))


def _protocol(evaluation: Evaluation) -> str:
    stride = evaluation.protocol["stride"]
    return "non-overlapping windows" if stride == "length" else f"sliding window, stride {stride}"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _range(values: Iterable[float]) -> str:
    low, high = (f"{value:.4g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


# --- rows to files ----------------------------------------------------------------------------


def _row(model: str, label: str, cells: dict[int, str]) -> dict:
    return {"model": model, LABEL: label, "source": "ours", **cells}


def _finished(name: str, caption: str, rows: list[dict], bold=(), rules=()) -> Table:
    """Lengths in order and by their labels, no holes."""
    texts = [each for each in TEXT_COLUMNS if each != TUNED_ON or name == "passkey"]
    lengths = sorted({key for row in rows for key in row if isinstance(key, int)})
    frame = pd.DataFrame(rows, columns=[*texts, *lengths]).fillna(NOTHING)
    frame = frame.rename(columns={length: window_label(length) for length in lengths})
    caption += "" if any(row["source"] == "ours" for row in rows) else NO_ROWS
    marked = frozenset((row, window_label(length)) for row, length in bold)
    return Table(name, caption, frame, marked, frozenset(rules))


def write_table(table: Table, stem: Path) -> None:
    """Write `stem` with the endings .csv, .md, .html and .tex."""
    markdown = _markdown(table)
    write_text(stem.with_suffix(".csv"), table.frame.to_csv(index=False))
    write_text(stem.with_suffix(".md"), markdown)
    write_text(stem.with_suffix(".html"), page_of(markdown))
    write_text(stem.with_suffix(".tex"), _latex(table))


def _markdown(table: Table) -> str:
    columns = list(table.frame.columns)
    ends = [":--" if column in table.left else "--:" for column in columns]
    lines = [" | ".join(columns), " | ".join(ends)]
    for number, row in enumerate(table.frame.itertuples(index=False)):
        cells = zip(columns, row, strict=True)
        marked = [f"**{cell}**" if (number, name) in table.bold else cell for name, cell in cells]
        lines.append(" | ".join(marked))
    return "\n".join([table.caption, "", *(f"| {line} |" for line in lines), ""])


def _latex(table: Table) -> str:
    columns = list(table.frame.columns)
    spec = "".join("l" if column in table.left else "r" for column in columns)
    body = [" & ".join(map(_escaped, columns)) + r" \\"]
    for number, row in enumerate(table.frame.itertuples(index=False)):
        cells = [
            rf"\textbf{{{_escaped(cell)}}}" if (number, column) in table.bold else _escaped(cell)
            for column, cell in zip(columns, row, strict=True)
        ]
        body += [r"\midrule"] if number in table.rules else []
        body.append(" & ".join(cells) + r" \\")
    lines = "\n".join(body)
    return rf"""% needs the packages booktabs and graphicx
\begin{{table}}
\centering
\caption{{{_escaped(table.caption)}}}
\label{{tab:{table.name}}}
\resizebox{{\linewidth}}{{!}}{{\begin{{tabular}}{{{spec}}}
\toprule
{lines}
\bottomrule
\end{{tabular}}}}
\end{{table}}
"""


def _escaped(text: str) -> str:
    for plain, tex in (("%", r"\%"), ("&", r"\&"), ("_", r"\_"), ("–", "--"), ("`", "'")):
        text = text.replace(plain, tex)
    return text.replace(">", "$>$").replace("<", "$<$")
