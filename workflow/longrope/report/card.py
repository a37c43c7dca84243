"""
The card of a model that was pre-trained here: made of what, at what cost, and what it can do.

Every number comes from the records of the run; the text around them is the same for any model.
"""

import math
from pathlib import Path

from longrope.files import read_json, write_text
from longrope.models import read_record
from longrope.windows import window_label


def write_card(model: Path, tokens: Path, perplexity: Path, passkey: Path, out: Path) -> None:
    """Write `card.md` from the checkpoint, its training tokens and its evaluations."""
    record, training = read_record(model), read_json(model / "training.json")
    corpus = read_json(tokens / "manifest.json")
    shape = read_json(model / "config.json")
    rows = [
        ("parameters", f"{training['parameters']:,}"),
        (
            "shape",
            f"Llama, {shape['num_hidden_layers']} layers, hidden {shape['hidden_size']},"
            f" {shape['num_attention_heads']} heads, vocabulary {shape['vocab_size']}",
        ),
        ("window", f"{record.rope.original_window} tokens, theta {record.rope.theta:g}"),
        ("weights (sha256, first 16)", f"`{record.fingerprint}`"),
        ("trained on", f"{len(corpus['documents'])} documents, {corpus['tokens']:,} tokens"),
        ("tokens of the corpus (sha256)", f"`{corpus['sha256']}`"),
        ("steps", f"{training['steps']:,}"),
        ("tokens seen", f"{training['tokens']:,}"),
        (
            "time of the steps",
            f"{training['seconds'] / 60:.0f} minutes on {training['threads']} CPU threads"
            f" ({training['precision']}, torch {training['torch']})",
        ),
        ("seed", str(training["seed"])),
        *_perplexities(read_json(perplexity)),
        *_passkeys(read_json(passkey)),
    ]
    lines = [
        f"# {record.rope.model}",
        "",
        "A small Llama made by the `pretrain_model` rule, only to be extended: it shows what a"
        " rescaled RoPE does on two CPU cores. It is no use as a language model.",
        "",
        "| | |",
        "| --- | --- |",
        *[f"| {name} | {value} |" for name, value in rows],
        "",
        "It is trained on public-domain books (the `train` split of the corpus) and on synthetic"
        " documents that teach retrieval: passkeys in the paper's template, statements to be"
        " looked up, repeated text. The shares of each are in the configuration.",
        "",
    ]
    write_text(out, "\n".join(lines))


def _perplexities(task: dict) -> list[tuple[str, str]]:
    rows = []
    for length in sorted({record["length"] for record in task["records"]}):
        records = [record for record in task["records"] if record["length"] == length]
        tokens = sum(record["tokens"] for record in records)
        loss = sum(record["tokens"] * record["loss"] for record in records) / tokens
        rows.append(
            (
                f"perplexity at {window_label(length)}",
                f"{math.exp(loss):.2f} ({tokens:,} held-out tokens, {len(records)} documents)",
            )
        )
    return rows


def _passkeys(task: dict) -> list[tuple[str, str]]:
    return [
        (
            f"passkeys at {window_label(record['length'])} ({task['protocol']['key']})",
            f"{record['found']} of {record['prompts']} found",
        )
        for record in task["records"]
    ]
