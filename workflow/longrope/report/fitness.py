"""
What searched factors are worth beside every closed form of their window: the table `fitness`.

Perplexity and passkeys, before and after tuning, of the rows of `searches`. What chance explains
is called a tie, not a win.
"""

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.report.load import Evaluation, chosen, of_task
from longrope.report.searches import (
    PAPER,
    PAPER_ROW,
    START,
    Row,
    counted,
    perplexity_cell,
    rows_of,
    start_cells,
    table_of,
    without_seed,
)
from longrope.report.sources import Sources
from longrope.report.table import FACTOR, NOTHING, Table
from longrope.statistics import (
    Comparison,
    Outcome,
    compare,
    compare_passkeys,
    mean_losses,
    wilson,
)

BELOW, VERDICT = "nats below the paper's", "beats every closed form"
TUNED, TUNED_PASSKEYS = "perplexity, tuned", "passkeys, tuned"
NAMED = 3  # closed forms that a verdict names; more are counted
VERBS = {
    "perplexity": {"loss": "loses to", "tie": "ties with", "undecided": "undecided against"},
    "passkeys": {"loss": "lose to", "tie": "tie with"},
}
CAPTION = (
    "What searched factors are worth without tuning, beside every closed form that was measured at"
    " the window; `searches` says what each row searched and spent."
)
NOTE = (
    "Perplexity is that of held-out"
    " documents, ± the standard error over seeds where there are several. Passkeys: per cent"
    " found, the mean over seeds, with the 95% Wilson interval; every method and seed reads the"
    f" same prompts, so the interval counts a prompt once. `{VERDICT}`: `both` is perplexity and"
    " passkeys. Perplexity is compared on the same tokens, each averaged over seeds (95%,"
    " Student's t over documents); passkeys prompt by prompt (exact sign-flip"
    " test at 5%, with one seed McNemar's). What either does not tell apart is a tie, not a win."
    " Neither covers other seeds than these, nor is corrected for the number of comparisons;"
    " `2 of 3 seeds alone`: so many would have won without the others."
)
BELOW_PAPER = (
    f" `{BELOW}`: how much lower the mean loss is than that of `{PAPER_ROW}`, a token, on the same"
    " tokens with its 95% interval; above 0 is better."
)
AFTER_TUNING = " `tuned`: the same at this window, of weights fine-tuned with the row's factors."


def fitness_table(config: Config, sources: Sources) -> Table:
    """Perplexity and passkeys before and after tuning, and what a search is better than."""
    rows = rows_of(config, sources)
    scored, retrieved = (of_task(sources.evaluations, task) for task in ("perplexity", "passkey"))
    lines, papers = [], {row.group: row for row in rows if row.name == PAPER}
    for row in rows:
        closed = [each for each in rows if each.group == row.group and not each.searched]
        settings = config.models[row.model]
        lines.append(
            start_cells(config, row)
            | {
                "perplexity": perplexity_cell(row.perplexity, row),
                BELOW: _below(row, papers.get(row.group)),
                "passkeys": passkey_cell(row.passkey, row),
                TUNED: _after_tuning(
                    settings,
                    row,
                    [each for each in scored if each.name == row.text],
                    perplexity_cell,
                ),
                TUNED_PASSKEYS: _after_tuning(settings, row, retrieved, passkey_cell),
                VERDICT: verdict(row, closed) if row.searched else NOTHING,
            }
        )
    columns = [*START, FACTOR, "perplexity", BELOW, "passkeys", TUNED, TUNED_PASSKEYS, VERDICT]
    optional = {BELOW: BELOW_PAPER, TUNED: AFTER_TUNING, TUNED_PASSKEYS: ""}
    table = table_of("fitness", CAPTION, NOTE, columns, optional, rows, lines, words=VERDICT)
    verdicts = [line[VERDICT] for line in lines if line[VERDICT] != NOTHING]
    both = sum(each.startswith("both") for each in verdicts)
    alone = sum("not compared" in each for each in verdicts)
    found = f"{both} of {len(verdicts) - alone} searches beat every closed form in both."
    found += f" {alone} more were compared in one of the two alone." if alone else ""
    return replace(table, found=found) if verdicts else table


def passkey_cell(evaluations: list[Evaluation], row: Row) -> str:
    """Per cent found, the mean over seeds. They read the same prompts: each counts once."""
    if not evaluations:
        return NOTHING
    records = [each.at(row.window)[0] for each in evaluations]
    found, prompts = fmean(each["found"] for each in records), records[0]["prompts"]
    low, high = wilson(found, prompts)
    text = f"{100 * found / prompts:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
    return counted(text, len(records), row.seeds)


# --- better than which ------------------------------------------------------------------------


def verdict(row: Row, closed: list[Row]) -> str:
    """What a search is better in than every closed form, and which of them it is not better than.

    `both: perplexity, passkeys`, `perplexity (2 of 3 seeds alone); passkeys tie with yarn`,
    `neither; perplexity loses to ntk`.
    """
    outcomes = {task: _outcomes(row, closed, task) for task in VERBS}
    measured = [task for task, found in outcomes.items() if found]
    won = [task for task in measured if set(outcomes[task].values()) == {"win"}]
    if not measured:
        return NOTHING
    parts = [f"{task}{_alone(row, closed, task)}" for task in won]
    if len(won) == 2:
        return f"both: {', '.join(parts)}"
    parts = parts or (["neither"] if len(measured) == 2 else [])
    for task, found in outcomes.items():
        if not found:
            parts.append(f"{task} not compared")
        elif task not in won:
            parts.append(f"{task} {_not_better(VERBS[task], found)}")
    return "; ".join(parts)


def _outcomes(row: Row, closed: list[Row], task: str) -> dict[str, Outcome]:
    """What the comparison with every closed form that was measured says."""
    found: dict[str, Outcome] = {}
    for form in closed:
        if task == "perplexity" and row.perplexity and form.perplexity:
            found[form.name] = _compare_losses(row, form).outcome
        elif task == "passkeys" and row.passkey and form.passkey:
            sides = ([each.at(row.window)[0] for each in side.passkey] for side in (row, form))
            found[form.name] = compare_passkeys(*sides)
    return found


def _alone(row: Row, closed: list[Row], task: str) -> str:
    """How many of the seeds beat every closed form by themselves, where there are several."""
    field = {"perplexity": "perplexity", "passkeys": "passkey"}[task]
    seeds = [replace(row, **{field: [each]}) for each in getattr(row, field)]
    if len(seeds) < 2:
        return ""
    winning = [each for each in seeds if set(_outcomes(each, closed, task).values()) == {"win"}]
    return f" ({len(winning)} of {len(seeds)} seeds alone)"


def _not_better(verbs: dict[Outcome, str], found: dict[str, Outcome]) -> str:
    """`loses to ntk, ties with yarn`."""
    reasons = []
    for outcome, verb in verbs.items():
        if rivals := [name for name, each in found.items() if each == outcome]:
            few = len(rivals) <= NAMED
            reasons.append(f"{verb} {', '.join(rivals) if few else f'{len(rivals)} closed forms'}")
    return ", ".join(reasons)


def _below(row: Row, paper: Row | None) -> str:
    if not paper or row.name == PAPER or not row.perplexity or not paper.perplexity:
        return NOTHING
    found = _compare_losses(row, paper)
    reach = " [{:+.4f}, {:+.4f}]".format(*found.interval) if found.interval else ""
    return f"{found.difference:+.4f}{reach}"


def _compare_losses(row: Row, other: Row) -> Comparison:
    """Each averaged over its seeds, window by window."""
    ours, theirs = (
        mean_losses([each.records for each in side.perplexity], row.window) for side in (row, other)
    )
    return compare(ours, theirs, row.window)


# --- after tuning -----------------------------------------------------------------------------


def _after_tuning(
    settings: ModelSettings,
    row: Row,
    evaluations: list[Evaluation],
    cell: Callable[[list[Evaluation], Row], str],
) -> str:
    """A cell for the weights that were tuned with a row's factors at its window.

    Tunings that differ in more than the seed of their factors are not averaged.
    """
    kinds: dict[tuple, list[str]] = {}
    for name, tuning in settings.tunings.items():
        if row.weights == BASE and tuning.method in row.methods and tuning.window == row.window:
            kinds.setdefault(_kind(settings, name), []).append(name)
    cells = []
    for names in kinds.values():
        found = [_as_tuned(row, settings.tunings[name].method, name, evaluations) for name in names]
        if measured := [each for each in found if each]:
            note = f" ({', '.join(names)})" if len(kinds) > 1 else ""
            cells.append(cell(measured, row) + note)
    return "; ".join(cells) or NOTHING


def _kind(settings: ModelSettings, name: str) -> tuple:
    """What a tuning is, from the pre-trained weights on, but for the seeds of the searches."""
    tuning = settings.tunings[name]
    before = () if tuning.start == BASE else _kind(settings, tuning.start)
    rest = tuning.model_dump_json(exclude={"start", "method"})
    return (*before, without_seed(settings, tuning.method), rest)


def _as_tuned(
    row: Row, method: str, weights: str, evaluations: list[Evaluation]
) -> Evaluation | None:
    """The evaluation of tuned weights with just the factors that they were tuned with.

    That is the method `tuned`, else any that ran the factors of the row's own `method`.
    """
    here = [
        each for each in chosen(evaluations, row.model, {weights}) if row.window in each.factors
    ]
    own = {
        each.factors[row.window]["fingerprint"]
        for each in (*row.perplexity, *row.passkey)
        if each.method == method
    }
    tuned = [each for each in here if each.method == "tuned"]
    same = [each for each in here if each.factors[row.window]["fingerprint"] in own]
    return next(iter(tuned + same), None)
