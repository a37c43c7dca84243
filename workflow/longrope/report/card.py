"""
The card of a model that was pre-trained here: made of what, at what cost, and what it can do.

Every number comes from the records of the run; the text around them is the same for any model.
"""

from pathlib import Path

from longrope.evaluation_file import read_evaluation
from longrope.files import read_json, write_text
from longrope.models.checkpoint import check_files, read_record


def write_card(model: Path, tokens: Path, records: list[Path], out: Path) -> None:
    """Write `card.md` from the checkpoint, its training tokens and its evaluations."""
    check_files(model)
    record, again = read_record(model), "and run the workflow again"
    training = read_json(model / "training.json", f"delete {model} {again}")
    corpus = read_json(tokens / "manifest.json", f"delete {tokens} {again}")
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
        *[row for path in records for row in _measured(read_evaluation(path))],
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


def _measured(evaluation: dict) -> list[tuple[str, str]]:
    """What one evaluation found at every length."""
    name, rows = evaluation["evaluation"], []
    for length, found in evaluation["results"].items():
        if evaluation["task"] == "perplexity":
            said = (
                f"{found['perplexity']:.2f} ({found['tokens']:,} held-out tokens,"
                f" {found['documents']} documents)"
            )
            rows.append((f"perplexity at {length} ({name})", said))
        elif evaluation["task"] == "passkey":
            key = evaluation["protocol"]["key"]
            said = f"{found['found']} of {found['prompts']} found"
            rows.append((f"passkeys at {length} ({key})", said))
    return rows
