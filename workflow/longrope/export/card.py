"""
The model card of an export, README.md with the front matter that hubs read: generated from the
records, numbers and protocol included, so that it says nothing that was not measured.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from longrope import __version__
from longrope.config.base import BASE
from longrope.config.search import FINDS
from longrope.export.measured import Measured, Pair
from longrope.export.request import Export, Written
from longrope.export.tables import as_list
from longrope.factors import RescaleFactors, describe
from longrope.files import read_lines, write_text
from longrope.models.checkpoint import CARD, ModelRecord
from longrope.project import commit
from longrope.windows import window_label

CARRIED_BY = {
    "native": "transformers' own `longrope`; no code of its own",
    "full": "all tiers, by the modelling file that is in the folder (`trust_remote_code`)",
    "gguf": "GGUF, for llama.cpp and what is built on it",
}
WORDS = (
    "*lambda*: what the angle of a pair of RoPE's dimensions is divided by, a number a"
    " pair, the fastest first; 1 leaves it as it came.",
    "*n_hat*: how many tokens at the beginning keep their own angles.",
    "*attention factor*: what cos and sin are multiplied by, so attention by its square.",
    "*tier*: the factors of one window, for texts longer than the next shorter window has.",
    "*search*: for a longer window; *recovery*: for a short one of a model tuned at a longer one.",
)
TAGS = ("longrope", "long-context", "rope-scaling")


def write_card(
    draft: Path,
    asked: Export,
    record: ModelRecord,
    written: Written,
    rows: Sequence[Pair],
    trainings: Sequence[Path],
) -> None:
    """Write README.md into an export."""
    licence, base = asked.licence or licence_of(record), base_of(record)
    longest, original = written.tables.window, record.rope.original_window
    lines = [
        *_front_matter(licence, base, asked, record),
        f"# {record.rope.model}, {window_label(original)} to {window_label(longest)} tokens",
        "",
        f"The context window of {base or record.rope.model} extended from {original:,} to"
        f" {longest:,} tokens by rescaled RoPE (LongRoPE,"
        " [arXiv 2402.13753](https://arxiv.org/abs/2402.13753)).",
        "",
        *_trial(written),
        *_facts(asked, record, written, licence, base),
        "",
        "## Factors",
        "",
        *_factors(asked, written),
        "What the words mean:",
        "",
        *(f"- {line}" for line in WORDS),
        "",
        *_training(record, trainings),
        "## Measured",
        "",
        *_measured(rows, asked.form),
        *_lacks(asked, written),
        "",
        "How to serve it: [serve.md](serve.md). The exported factors are in `factors.json`, what"
        " was exported from what in `longrope_export.json`.",
        "",
    ]
    write_text(draft / "README.md", "\n".join(lines))


def licence_of(record: ModelRecord) -> str | None:
    """What the source of the base model says of its licence; None if it says nothing."""
    kind, path = record.source.get("kind"), Path(record.source.get("path", ""))
    if kind == "folder":
        return _licence_in(path / CARD)
    if kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        revision = record.source.get("revision")
        card = try_to_load_from_cache(record.source["name"], CARD, revision=revision)
        return _licence_in(Path(card)) if isinstance(card, str) else None
    if kind == "gguf" and path.is_file():
        import gguf

        field = gguf.GGUFReader(path).fields.get("general.license")
        return field.contents() if field else None
    return None


def _licence_in(card: Path) -> str | None:
    """The licence in the front matter of a model card; None where there is none to be read."""
    import yaml

    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    if not (head := re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)):
        return None
    try:
        said = yaml.safe_load(head[1])
    except yaml.YAMLError:  # a card for people alone
        return None
    licence = said.get("license") if isinstance(said, dict) else None
    if isinstance(licence, list):
        return ", ".join(map(str, licence))
    return str(licence) if licence else None


def base_of(record: ModelRecord) -> str | None:
    """The hub name of the base model, where it came from the hub."""
    return record.source["name"] if record.source.get("kind") == "hub" else None


def _origin(record: ModelRecord) -> str:
    """Where base weights that are not of the hub come from, for people."""
    kind, file = record.source.get("kind"), record.public_source.get("file")
    if kind == "pretrain":
        return "pre-trained for this purpose"
    return f"a {'GGUF file' if kind == 'gguf' else 'checkpoint on disk'} ({file})"


def _front_matter(licence, base, asked: Export, record: ModelRecord) -> list[str]:
    import yaml

    head = {"license": licence} if licence else {}
    if base:
        head["base_model"] = base
        if record.weights != BASE:  # other factors alone are no tuning
            head["base_model_relation"] = "finetune"
    head |= {
        "library_name": "gguf" if asked.form == "gguf" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(TAGS),
    }
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return ["---", *text.splitlines(), "---", ""]


def of_trial(factors: RescaleFactors) -> bool:
    """Whether factors come from a search that was only to show that it runs."""
    scored = factors.provenance.get("candidates")
    return isinstance(scored, int) and scored < FINDS


def _trial(written: Written) -> list[str]:
    trials = [each for each in written.tables.tiers.factors if of_trial(each)]
    if not trials:
        return []
    windows = " and ".join(window_label(each.window) for each in trials)
    return [
        f"**This is a trial.** The factors for {windows} come from a search of"
        f" {max(each.provenance['candidates'] for each in trials)} candidates, which shows that"
        " every stage runs and finds nothing: do not publish or use it.",
        "",
    ]


def _facts(asked: Export, record: ModelRecord, written: Written, licence, base) -> list[str]:
    rope, tables = record.rope, written.tables
    said = written.difference
    compared = (
        "by the package gguf: every tensor and key; not run"
        if said is None
        else f"by transformers: logits within {said:.1g}"
    )
    rows = [
        ("form", f"{asked.form}: {CARRIED_BY[asked.form]}"),
        ("made for", f"{asked.engine.name} ({asked.engine.read})"),
        ("original window", f"{rope.original_window:,} tokens"),
        ("window of this export", f"{tables.window:,} tokens"),
        ("RoPE", f"theta {rope.theta:g}, {rope.pairs} pairs"),
        (
            "attention factor",
            f"{tables.long.attention_factor:g}"
            + (", in the query weights (config.json says 1)" if written.in_weights else ""),
        ),
        ("base model", base or f"{rope.model}, {_origin(record)}"),
        ("licence of the base", licence or "not known: look it up before you publish this"),
        (
            "changed in its config",
            str(record.changes) if record.changes else "nothing but the RoPE",
        ),
        ("weights", f"{record.weights}, sha256 `{record.fingerprint}…`"),
        ("base weights", f"sha256 `{rope.fingerprint}…`"),
        ("read again and compared", compared),
        ("longrope", f"{__version__}, commit {commit() or 'not known'}"),
    ]
    cells = [(name, " ".join(str(value).split()).replace("|", "\\|")) for name, value in rows]
    return ["| | |", "| --- | --- |", *[f"| {name} | {value} |" for name, value in cells]]


def _factors(asked: Export, written: Written) -> list[str]:
    tables = written.tables
    if asked.form == "full":
        return [f"- {describe(each)}" for each in tables.tiers.factors] + [""]
    if tables.one:
        head = f"One table for every length, that of {window_label(tables.window)}:"
        shown = [tables.long]
    else:
        head = f"Two tables: up to {window_label(tables.original)}, and beyond."
        shown = [tables.short, tables.long]
    lists = [f"`{[float(f'{value:.6g}') for value in as_list(each)]}`" for each in shown]
    rows = [f"- {describe(each)}: {text}" for each, text in zip(shown, lists, strict=True)]
    return [head, "", *rows, ""]


def _training(record: ModelRecord, trainings: Sequence[Path]) -> list[str]:
    if not trainings:
        return []
    rows = ["| tuning | steps | tokens | last loss (nats a token) | seconds |"]
    rows.append("| --- | --: | --: | --: | --: |")
    for path in trainings:
        steps = read_lines(path)
        tokens = sum(step["tokens"] for step in steps)
        seconds = sum(step["seconds"] for step in steps)
        rows.append(
            f"| {Path(path).parents[1].name} | {len(steps)} | {tokens:,} |"
            f" {steps[-1]['loss']:.3f} | {seconds:.0f} |"
        )
    return [
        "## Training",
        "",
        *rows,
        "",
        "The loss counts answer tokens of retrieval data, too.",
        "",
    ]


def _lacks(asked: Export, written: Written) -> list[str]:
    """What the form leaves out; of the form full, what it is to those who do not trust its file."""
    said = [f"- {each}" for each in (*written.said, *written.lost)]
    if asked.form != "full":
        whole = [] if written.said else ["Nothing: it is the whole of the extended model."]
        return ["## What this form does not carry", "", *said, *whole]
    head = "It carries the whole of the extended model. Loaded without `trust_remote_code` it is"
    one = "one table of factors for every length" if written.tables.one else "two tables of factors"
    return ["## What this form does not carry", "", f"{head} {one}:", "", *said]


def _measured(rows: Sequence[Pair], form: str) -> list[str]:
    if not rows:
        return ["Nothing was measured of these weights.", ""]
    lines = []
    for task, unit in (("perplexity", "perplexity"), ("passkey", "passkeys found")):
        own = [row for row in rows if row.task == task]
        if not own:
            continue
        # The form full carries every tier: what it runs with, if its file is trusted.
        every, export = (
            ("as exported", "without `trust_remote_code`")
            if form == "full"
            else ("factors of each tier", "as exported")
        )
        lines += [
            f"| evaluation | length | {unit}, {every} | {unit}, {export} | of |",
            "| --- | --: | --: | --: | --: |",
        ]
        for row in own:
            known = row.tiers or row.export
            amount = f"{known.amount:,} {'tokens' if task == 'perplexity' else 'prompts'}"
            if known.documents:
                amount += f", {known.documents} document{'s' if known.documents > 1 else ''}"
            lines.append(
                f"| {row.evaluation} | {window_label(row.length)} | {_value(row.tiers)} |"
                f" {_value(row.export)} | {amount} |"
            )
        lines.append("")
    protocols = {}
    for row in rows:
        protocols.setdefault(row.evaluation, (row.tiers or row.export).protocol)
    for name, protocol in protocols.items():
        said = ", ".join(f"{key} {value}" for key, value in protocol.items())
        lines.append(f"- Protocol of {name}: {said}.")
    return [*lines, "- A dash: not measured.", ""]


def _value(measured: Measured | None) -> str:
    if measured is None:
        return "–"
    if measured.task == "passkey":
        return f"{measured.value:.0%}"
    return f"{measured.value:.2f}"
