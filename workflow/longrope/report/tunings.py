"""
What each way of fine-tuning is worth and what it takes: the table `tunings`.

Worth is perplexity and passkeys at every window. Cost is counted from the pre-trained weights on: a
tuning that starts from another has the tokens and seconds of both.
"""

from dataclasses import replace

from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.config.training import TuningSettings
from longrope.report.labels import row_label
from longrope.report.lines import Group, Line, perplexity_table
from longrope.report.load import Evaluation, chosen, of_task
from longrope.report.sources import Sources
from longrope.report.table import LABEL, NOTHING, TEXT_COLUMNS, Column, Table, share
from longrope.study import chain_of
from longrope.windows import window_label

HOW = "how it was tuned"
COST = TRAINED, TOKENS, SECONDS, MEMORY = "M weights trained", "M tokens", "seconds", "peak MiB"
CAPTION = (
    "Ways to tune: what each is worth at every window, with the factors of its tuning or, in short"
    " windows, with the original RoPE, and what it took."
)
NOTE = (
    " Passkeys: per cent found of the same {prompts} prompts, with the 95% Wilson interval."
    f" `{HOW}`: tuning after tuning, what trained and on sequences of how many tokens. `{TOKENS}`"
    f" and `{SECONDS}` are of all training steps from the pre-trained weights on, `{TRAINED}` and"
    f" `{MEMORY}` the largest of a tuning. Memory is that of tensors on a GPU, on a CPU that of the"
    " whole process, Python and torch included. Seconds depend on what else the machine did."
)


def tunings_table(config: Config, sources: Sources) -> Table:
    """Perplexity and passkeys at every window of every tuned checkpoint, and its cost."""
    groups = []
    for model, text, own in sources.texts(config):
        tuned = [each for each in own if each.method != "none"]
        blocks = [tuned, chosen(own, model, [BASE, *config.models[model].tunings], {"none"})]
        groups.append(
            Group(model, text, [[_line(config, each) for each in block] for block in blocks])
        )
    table = perplexity_table("tunings", CAPTION, config, groups, lambda base: [])
    columns = [column for column in table.frame if column not in TEXT_COLUMNS]
    retrieved = of_task(sources.evaluations, "passkey")
    tested = sorted({length for each in retrieved for length in each.lengths})
    more = [*(f"passkeys {window_label(length)}" for length in tested), *COST]
    cells = _more_cells(config, sources)
    frame = table.frame.copy()
    for column in [HOW, *more]:
        places = zip(frame["model"], frame[LABEL], strict=True)
        frame[column] = [cells.get(place, {}).get(column, NOTHING) for place in places]
    columns = [*TEXT_COLUMNS[:3], HOW, *TEXT_COLUMNS[3:], *columns, *more]
    prompts = sorted({record["prompts"] for each in retrieved for record in each.records})
    note = table.note + NOTE.format(prompts=" or ".join(map(str, prompts)) or "no")
    return replace(table, frame=frame[columns], note=note, left=(*TEXT_COLUMNS, HOW))


def _line(config: Config, each: Evaluation) -> Line:
    label = row_label(config.models[each.model], each.weights, each.method)
    line = Line(label, {})
    for at in each.lengths:
        line.put(Column((at,), f"perplexity {window_label(at)}"), each, at)
    return line


def _more_cells(config: Config, sources: Sources) -> dict[tuple[str, str], dict[str, str]]:
    """Model and label of a row -> its passkeys and costs."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for each in sources.evaluations:
        label = row_label(config.models[each.model], each.weights, each.method)
        row = cells.setdefault((each.model, label), _cost_cells(config, sources, each))
        if each.task == "passkey":
            row |= {f"passkeys {window_label(at)}": share(one) for at, one in each.results.items()}
    return cells


def _cost_cells(config: Config, sources: Sources, each: Evaluation) -> dict[str, str]:
    """How the weights of an evaluation were tuned, and what that took, from the base on."""
    settings = config.models[each.model]
    chain = chain_of(settings, each.weights)
    if not chain:
        return {}
    costs = [sources.costs[each.model, weights] for weights in chain]
    cost = sum(costs[1:], costs[0])
    return {
        HOW: ", then ".join(describe(settings, settings.tunings[weights]) for weights in chain),
        TRAINED: f"{cost.trained / 1e6:.3g}",
        TOKENS: f"{cost.tokens / 1e6:.3g}",
        SECONDS: f"{cost.seconds:.0f}",
        MEMORY: f"{cost.memory / 2**20:.0f}",
    }


def describe(settings: ModelSettings, tuning: TuningSettings) -> str:
    """`all weights, 2k`; `LoRA 8, norms, embeddings, 256 of 2k, positions skipped`."""
    words = ["all weights"]
    if tuning.lora:
        words = [f"LoRA {tuning.lora.rank}", *tuning.lora.train]
    length, window = (window_label(each) for each in (tuning.sequence_length, tuning.window))
    words.append(length if length == window else f"{length} of {window}")
    if tuning.positions == "skipped":
        words.append("positions skipped")
    if tuning.short:
        short = window_label(tuning.short.length or settings.original_window)
        words.append(f"{tuning.short.share:.0%} in {short} with the original RoPE")
    if tuning.checkpointing:
        words.append("activations computed again")
    return ", ".join(words)
