"""
Making factors: by a closed form, by a search, by a fine-tuning that gets used to them; from others.
"""

import argparse
from pathlib import Path

from longrope.commands.command import live_run, new_command, window
from longrope.errors import UserError
from longrope.parallel.place import here
from longrope.tracking.run import Outcome


def add_to(parsers) -> None:
    """Their parsers."""
    command = new_command(
        parsers, "derive", derive, "derive factors from a closed form",
        "derive yarn --window 2k --model results/tiny/base/model --out yarn-2k.json",
        "derive pi-on-tuned --window 16k --model results/tiny/longrope-2k/model --out pi.json",
    )  # fmt: skip
    command.add_argument(
        "method", help="none, pi, ntk, yarn, ...; with -on-tuned, multiplied onto the tuned factors"
    )
    command.add_argument(
        "--window", type=window, required=True, help="tokens that it is to reach, such as 8k"
    )
    command.add_files("--model", "--out", out="factors.json that is written")

    command = new_command(
        parsers, "search", search, "search factors for one window",
        "search --model results/tiny/base/model --tokens results/tiny/data/books/validation"
        " --out factors.json --trace trace.jsonl --state state --settings @search.json",
    )  # fmt: skip
    command.add_files(
        "--model", "--tokens", "--out", "--trace", "--state", out="factors.json that is written"
    )
    command.add_argument(
        "--recovery", action="store_true", help="for a short window of a tuned model"
    )
    command.add_argument(
        "--warm", type=Path, nargs="?", help="factors of a shorter window to start from"
    )
    command.add_argument(
        "--plot", type=Path, help="a picture of factors and progress, .png or .pdf"
    )
    command.add_settings()

    command = new_command(
        parsers, "finetune", finetune, "fine-tune with the factors of one window",
        "finetune --model results/tiny/base/model --factors factors.json"
        " --tokens results/tiny/data/books/train --out tuned --metrics metrics.jsonl --state state"
        " --settings @tuning.json",
    )  # fmt: skip
    command.add_files(
        "--model", "--factors", "--tokens", "--out", "--metrics", "--state",
        out="the folder that is made, a checkpoint",
    )  # fmt: skip
    command.add_settings()

    command = new_command(
        parsers, "assemble", assemble, "put the factors of all windows together",
        "assemble --model results/tiny/longrope-2k/model --factors 256.json 2k.json 16k.json"
        " --out extended",
    )  # fmt: skip
    command.add_files("--model", "--out", out="the folder that gets extended.json")
    command.add_lists("--factors")

    command = new_command(
        parsers, "import-factors", import_factors, "read factors of other makers",
        "import-factors --checkpoint models/Phi-3-mini-128k-instruct --out phi3-128k.json",
        "import-factors --csv mistral-128k.csv --model results/mistral/base/model --window 128k"
        " --out factors.json",
    )  # fmt: skip
    origin = command.add_mutually_exclusive_group(required=True)
    origin.add_argument("--csv", type=Path, help="a table as the paper's authors publish them")
    origin.add_argument("--checkpoint", type=Path, help="a checkpoint with a longrope block")
    command.add_argument("--model", type=Path, help="with --csv: the checkpoint that it is for")
    command.add_argument(
        "--window", type=window, help="with --csv: the window that it is for, such as 128k"
    )
    command.add_argument(
        "--n-hat", type=int, default=0, metavar="TOKENS",
        help="with --csv, which does not say it: leading tokens that are not rescaled (default 0)",
    )  # fmt: skip
    command.add_argument(
        "--which", choices=("long", "short"), default="long",
        help="with --checkpoint: which of its two lists (default long)",
    )  # fmt: skip
    command.add_files("--out", out="factors.json that is written")


def derive(options: argparse.Namespace) -> Outcome:
    from longrope.baselines import closed_form
    from longrope.factors import describe, write_factors
    from longrope.models.checkpoint import read_record, tuned_factors
    from longrope.study import ON_TUNED

    record = read_record(options.model)
    tuned = tuned_factors(options.model) if options.method.endswith(ON_TUNED) else None
    if tuned is None and options.method.endswith(ON_TUNED):
        raise UserError(f"{options.method}: these weights are not tuned; leave {ON_TUNED} out")
    form = options.method.removesuffix(ON_TUNED)
    factors = closed_form(form, record.rope, options.window, on=tuned)
    write_factors(options.out, factors)
    print(describe(factors))
    return Outcome(artifacts=[options.out])


def search(options: argparse.Namespace) -> Outcome:
    from longrope.config.search import SearchSettings
    from longrope.reading import read_settings
    from longrope.search.stage import search_factors

    if options.plot:  # before hours of search, if a package is missing
        from longrope.report.search import plot_search
    metrics = search_factors(
        read_settings(SearchSettings, options.settings),
        options.model,
        options.tokens,
        options.out,
        options.trace,
        options.state,
        recovery=options.recovery,
        warm=options.warm,
    )
    artifacts = [options.out]
    if options.plot and here().leads:
        plot_search(options.out, options.trace, options.plot)
        artifacts.append(options.plot)
    return Outcome(metrics, [options.trace], artifacts)


def finetune(options: argparse.Namespace) -> Outcome:
    from longrope.config.training import TuningStage
    from longrope.reading import read_settings
    from longrope.training.finetune import finetune

    with live_run(options) as live:
        metrics = finetune(
            read_settings(TuningStage, options.settings),
            options.model,
            options.factors,
            options.tokens,
            options.out,
            options.metrics,
            options.state,
            on_metrics=live.log,
        )
    return Outcome(metrics, [options.metrics], [options.out / "longrope.json"])


def assemble(options: argparse.Namespace) -> Outcome:
    from longrope.extended import make_tiers, write_extended
    from longrope.factors import describe, read_factors
    from longrope.models.checkpoint import read_record

    rope = read_record(options.model).rope
    tiers = make_tiers([read_factors(path, rope) for path in options.factors])
    write_extended(options.out, tiers, options.model)
    for each in tiers.factors:
        print(describe(each))
    return Outcome(artifacts=[options.out / "extended.json"])


def import_factors(options: argparse.Namespace) -> Outcome:
    from longrope.factors import describe, write_factors
    from longrope.import_factors import import_checkpoint, import_csv
    from longrope.models.checkpoint import read_record

    if options.csv:
        if not (options.model and options.window):
            raise UserError("a csv table needs --model (the checkpoint it is for) and --window")
        rope = read_record(options.model).rope
        factors = import_csv(options.csv, rope, options.window, n_hat=options.n_hat)
    else:
        factors = import_checkpoint(options.checkpoint, which=options.which)
    write_factors(options.out, factors)
    print(describe(factors))
    return Outcome(artifacts=[options.out])
