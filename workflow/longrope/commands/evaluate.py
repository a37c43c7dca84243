"""
Measuring: perplexity, passkeys, benchmarks, RULER's needles, instructions.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from longrope.commands.command import HELP, count, new_command, window
from longrope.tracking.run import Outcome

PLACES = (
    "--model results/tiny/base/model --factors results/tiny/base/factors/search/2k/factors.json"
)


def add_to(parsers) -> None:
    """Their parsers."""
    _add_stage(
        parsers, "evaluate-perplexity", evaluate_perplexity, "perplexity of held-out documents",
        tokens="results/tiny/data/books/test",
    )  # fmt: skip
    _add_stage(parsers, "evaluate-passkey", evaluate_passkey, "retrieval of passkeys")
    _add_stage(
        parsers, "evaluate-benchmarks", evaluate_benchmarks, "questions of lm-evaluation-harness"
    )
    _add_stage(
        parsers, "evaluate-ruler", evaluate_ruler, "retrieval of RULER's needles", samples="samples"
    )

    command = new_command(
        parsers, "evaluate-instructions", evaluate_instructions,
        "does a model still do what it is told? thirty carried questions",
        "evaluate-instructions --model results/mine/base/model --out before.json",
        "evaluate-instructions --model results/mine/longrope-16k/model"
        " --factors results/mine/longrope-16k/extended/extended.json --at 16k --out after.json",
    )  # fmt: skip
    command.add_files("--model", "--out", out="the JSON file with every answer")
    command.add_argument("--factors", type=Path, metavar="PATH", help=HELP["--factors"])
    command.add_argument(
        "--at", type=window, metavar="WINDOW",
        help="the factors of this length throughout, such as 16k, as an export with one table has"
        " them (by default those of each question's length)",
    )  # fmt: skip

    command = new_command(
        parsers, "fetch-benchmarks", fetch_benchmarks, "get all that benchmarks need offline",
        "fetch-benchmarks --out benchmarks --questions 100", tracked=False,
    )  # fmt: skip
    command.add_argument(
        "--questions", type=count, help="at most so many of each, evenly chosen (default all)"
    )
    command.add_files("--out", out="the folder that is made")


def _add_stage(parsers, name: str, run: Callable, about: str, **more: str) -> None:
    """One that the workflow runs; `more` are files that it takes beside those of all, with what
    its example has for them."""
    settings = name.removeprefix("evaluate-")
    given = "".join(f" --{flag} {place}" for flag, place in more.items())
    example = f"{name} {PLACES}{given} --out 2k.json --state state --settings @{settings}.json"
    command = new_command(parsers, name, run, about, example)
    command.add_files(
        "--model", *(f"--{flag}" for flag in more), "--out", "--state",
        out="the JSON file with one record for each document and length",
    )  # fmt: skip
    command.add_lists("--factors")
    command.add_settings()


def evaluate_perplexity(options: argparse.Namespace) -> Outcome:
    from longrope.config.evaluation import PerplexityStage
    from longrope.evaluate.perplexity import evaluate_perplexity
    from longrope.reading import read_settings

    stage = read_settings(PerplexityStage, options.settings)
    metrics = evaluate_perplexity(
        stage, options.model, options.tokens, options.factors, options.out, options.state
    )
    return Outcome(metrics, artifacts=[options.out])


def evaluate_passkey(options: argparse.Namespace) -> Outcome:
    from longrope.config.evaluation import PasskeyStage
    from longrope.evaluate.passkey import evaluate_passkey
    from longrope.reading import read_settings

    stage = read_settings(PasskeyStage, options.settings)
    metrics = evaluate_passkey(stage, options.model, options.factors, options.out, options.state)
    return Outcome(metrics, artifacts=[options.out])


def evaluate_benchmarks(options: argparse.Namespace) -> Outcome:
    from longrope.config.evaluation import BenchmarksStage
    from longrope.evaluate.benchmarks import evaluate_benchmarks
    from longrope.reading import read_settings

    stage = read_settings(BenchmarksStage, options.settings)
    metrics = evaluate_benchmarks(stage, options.model, options.factors, options.out, options.state)
    return Outcome(metrics, artifacts=[options.out])


def evaluate_ruler(options: argparse.Namespace) -> Outcome:
    from longrope.config.evaluation import RulerStage
    from longrope.evaluate.ruler import evaluate_ruler
    from longrope.reading import read_settings

    stage = read_settings(RulerStage, options.settings)
    metrics = evaluate_ruler(
        stage, options.model, options.factors, options.out, options.state, options.samples
    )
    return Outcome(metrics, artifacts=[options.out])


def evaluate_instructions(options: argparse.Namespace) -> Outcome:
    from longrope.evaluate.instructions import evaluate_instructions

    metrics = evaluate_instructions(options.model, options.factors, options.out, options.at)
    print(f"{metrics['matched']:.0%} answered, log-probability {metrics['log_prob']:.3f}")
    return Outcome(metrics, artifacts=[options.out])


def fetch_benchmarks(options: argparse.Namespace) -> None:
    from longrope.evaluate.questions import fetch_questions

    for name, number in fetch_questions(options.out, options.questions).items():
        print(f"{name}: {number:,} questions")
