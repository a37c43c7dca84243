"""
Bringing a model and its texts in: a checkpoint imported or trained, its card, a corpus tokenised.
"""

import argparse

from longrope.commands.command import live_run, name, new_command
from longrope.tracking.run import Outcome


def add_to(parsers) -> None:
    """Their parsers."""
    command = new_command(
        parsers, "import-model", import_model, "bring a checkpoint in",
        "import-model --name mine --out results/mine/base/model --settings @import.json",
    )  # fmt: skip
    command.add_argument("--name", type=name, required=True, help="its name in results/")
    command.add_files("--out", out="the folder that is made, with longrope.json")
    command.add_settings()

    command = new_command(
        parsers, "pretrain", pretrain, "train a small model from nothing",
        "pretrain --name tiny --out results/tiny/base/model --state state"
        " --settings @pretrain.json",
    )  # fmt: skip
    command.add_argument("--name", type=name, required=True, help="its name in results/")
    command.add_files("--out", "--state", out="the folder that is made, a checkpoint")
    command.add_settings()

    command = new_command(
        parsers, "card", card, "describe a model that was trained here",
        "card --model results/tiny/base/model --tokens results/tiny/data/books/test"
        " --records results/tiny/base/evaluation/*/none.json --out README.md",
    )  # fmt: skip
    command.add_files("--model", "--tokens", "--out", out="the card, a Markdown file")
    command.add_lists("--records")

    command = new_command(
        parsers, "tokenize", tokenize, "split a corpus and tokenise it for a model",
        "tokenize --model results/tiny/base/model --out results/tiny/data/books"
        " --settings @corpus.json",
    )  # fmt: skip
    command.add_files("--model", "--out", out="the folder that gets train, validation and test")
    command.add_settings()


def import_model(options: argparse.Namespace) -> Outcome:
    from longrope.config import ImportStage
    from longrope.models.import_model import import_model
    from longrope.reading import read_settings

    stage = read_settings(ImportStage, options.settings)
    record = import_model(
        stage.source, options.name, stage.original_window, options.out, stage.rope
    )
    rope = record.rope
    print(
        f"{rope.model}: {rope.pairs} pairs, theta {rope.theta:g}, window {rope.original_window},"
        f" weights {record.fingerprint}"
        + (", with the RoPE it comes with" if stage.rope == "own" else "")
    )
    return Outcome(artifacts=[options.out / "longrope.json", options.out / "config.json"])


def pretrain(options: argparse.Namespace) -> Outcome:
    from longrope.config import PretrainStage
    from longrope.reading import read_settings
    from longrope.training.pretrain import pretrain

    stage = read_settings(PretrainStage, options.settings)
    with live_run(options) as live:
        metrics = pretrain(
            stage.model,
            stage.corpus,
            options.name,
            stage.original_window,
            stage.seed,
            options.out,
            options.state,
            on_metrics=live.log,
        )
    return Outcome(metrics, [options.state / "metrics.jsonl"], [options.out / "training.json"])


def card(options: argparse.Namespace) -> Outcome:
    from longrope.report.card import write_card

    write_card(options.model, options.tokens, options.records, options.out)
    return Outcome(artifacts=[options.out])


def tokenize(options: argparse.Namespace) -> Outcome:
    from longrope.config.corpus import TokenizeSettings
    from longrope.corpus.documents import SPLITS
    from longrope.corpus.tokens import tokenize_corpus
    from longrope.models.checkpoint import load_tokenizer
    from longrope.reading import read_settings

    stage = read_settings(TokenizeSettings, options.settings)
    folders = {split: options.out / split for split in SPLITS}
    tokenize_corpus(stage, load_tokenizer(options.model), folders)
    return Outcome(artifacts=[folder / "manifest.json" for folder in folders.values()])
