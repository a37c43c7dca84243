"""
The command line: one sub-command a stage, each named after the verb that its rule does.

This module imports nothing heavy: a stage's modules are imported when it runs, so that
`longrope --help` answers at once. `job.py` has what surrounds every stage.
"""

import argparse
import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from longrope import __version__
from longrope.errors import UserError
from longrope.job import Outcome, logging_to, run_stage


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; 0 = done, 1 = the user can mend it (one line says how), 2 = usage.

    And those of `run_stage`."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.stage is None:
        parser.print_help()
        return 2
    try:
        with logging_to(options.log):
            return run_stage(options)
    except UserError as error:
        print(f"longrope: {error}", file=sys.stderr)
        return 1


def _live(options: argparse.Namespace):
    """Where MLFLOW_TRACKING_URI is set, metrics go there as they come; else nowhere."""
    from longrope.tracking import LiveRun

    return LiveRun(options.run_id, str(options.log and options.log.with_suffix("")))


def _import_model(options: argparse.Namespace) -> Outcome:
    from longrope.config import ImportStage
    from longrope.import_model import import_model
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


def _pretrain(options: argparse.Namespace) -> Outcome:
    from longrope.config import PretrainStage
    from longrope.pretrain import pretrain
    from longrope.reading import read_settings

    stage = read_settings(PretrainStage, options.settings)
    with _live(options) as live:
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


def _card(options: argparse.Namespace) -> Outcome:
    from longrope.report.card import write_card

    write_card(options.model, options.tokens, options.records, options.out)
    return Outcome(artifacts=[options.out])


def _tokenize(options: argparse.Namespace) -> Outcome:
    from longrope.config.corpus import TokenizeSettings
    from longrope.corpus import SPLITS, tokenize_corpus
    from longrope.models import load_tokenizer
    from longrope.reading import read_settings

    stage = read_settings(TokenizeSettings, options.settings)
    folders = {split: options.out / split for split in SPLITS}
    tokenize_corpus(stage, load_tokenizer(options.model), folders)
    return Outcome(artifacts=[folder / "manifest.json" for folder in folders.values()])


def _derive(options: argparse.Namespace) -> Outcome:
    from longrope.baselines import closed_form
    from longrope.factors import describe, write_factors
    from longrope.models import read_record, tuned_factors
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


def _search(options: argparse.Namespace) -> Outcome:
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
    if options.plot:
        plot_search(options.out, options.trace, options.plot)
        artifacts.append(options.plot)
    return Outcome(metrics, [options.trace], artifacts)


def _finetune(options: argparse.Namespace) -> Outcome:
    from longrope.config.training import TuningStage
    from longrope.finetune import finetune
    from longrope.reading import read_settings

    with _live(options) as live:
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


def _assemble(options: argparse.Namespace) -> Outcome:
    from longrope.extended import make_tiers, write_extended
    from longrope.factors import describe, read_factors
    from longrope.models import read_record

    rope = read_record(options.model).rope
    tiers = make_tiers([read_factors(path, rope) for path in options.factors])
    write_extended(options.out, tiers, options.model)
    for each in tiers.factors:
        print(describe(each))
    return Outcome(artifacts=[options.out / "extended.json"])


def _evaluate_perplexity(options: argparse.Namespace) -> Outcome:
    from longrope.config.evaluation import PerplexityStage
    from longrope.evaluate.perplexity import evaluate_perplexity
    from longrope.reading import read_settings

    stage = read_settings(PerplexityStage, options.settings)
    metrics = evaluate_perplexity(
        stage, options.model, options.tokens, options.factors, options.out, options.state
    )
    return Outcome(metrics, artifacts=[options.out])


def _evaluate_passkey(options: argparse.Namespace) -> Outcome:
    from longrope.config.evaluation import PasskeyStage
    from longrope.evaluate.passkey import evaluate_passkey
    from longrope.reading import read_settings

    stage = read_settings(PasskeyStage, options.settings)
    metrics = evaluate_passkey(stage, options.model, options.factors, options.out, options.state)
    return Outcome(metrics, artifacts=[options.out])


def _evaluate_benchmarks(options: argparse.Namespace) -> Outcome:
    from longrope.config.evaluation import BenchmarksStage
    from longrope.evaluate.benchmarks import evaluate_benchmarks
    from longrope.reading import read_settings

    stage = read_settings(BenchmarksStage, options.settings)
    metrics = evaluate_benchmarks(stage, options.model, options.factors, options.out, options.state)
    return Outcome(metrics, artifacts=[options.out])


def _evaluate_ruler(options: argparse.Namespace) -> Outcome:
    from longrope.config.evaluation import RulerStage
    from longrope.evaluate.ruler import evaluate_ruler
    from longrope.reading import read_settings

    stage = read_settings(RulerStage, options.settings)
    metrics = evaluate_ruler(
        stage, options.model, options.factors, options.out, options.state, options.samples
    )
    return Outcome(metrics, artifacts=[options.out])


def _fetch_benchmarks(options: argparse.Namespace) -> None:
    from longrope.evaluate.questions import fetch_questions

    for name, count in fetch_questions(options.out, options.questions).items():
        print(f"{name}: {count:,} questions")


def _tabulate(options: argparse.Namespace) -> Outcome:
    from longrope.config import Config
    from longrope.reading import read_settings
    from longrope.report.tables import make_table

    config = read_settings(Config, options.settings)
    make_table(
        options.table,
        config,
        options.records,
        options.traces,
        options.paper,
        options.out,
        trainings=options.trainings,
    )
    return Outcome(artifacts=[options.out.with_suffix(".md")])


def _summarise(options: argparse.Namespace) -> Outcome:
    from longrope.config import Config
    from longrope.reading import read_settings
    from longrope.report.summary import write_summary

    write_summary(read_settings(Config, options.settings), options.records, options.out)
    return Outcome(artifacts=[options.out.with_suffix(".json")])


def _plot(options: argparse.Namespace) -> Outcome:
    from longrope.config import Config
    from longrope.reading import read_settings
    from longrope.report.figures import plot

    plot(options.figure, read_settings(Config, options.settings), options.records, options.out)
    return Outcome(artifacts=[options.out.with_suffix(".png")])


def _import_factors(options: argparse.Namespace) -> Outcome:
    from longrope.factors import describe, write_factors
    from longrope.importer import import_checkpoint, import_csv
    from longrope.models import read_record

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


def _plan(options: argparse.Namespace) -> Outcome:
    from longrope.files import write_text
    from longrope.plan.machine import find_machine
    from longrope.plan.report import check_fits, plan

    config = _whole_config(options)
    machine = find_machine(
        options.gpu,
        memory=options.memory,
        flops=options.flops,
        utilisation=options.utilisation,
        gpus=options.gpus,
    )
    text, estimates = plan(config, machine, options.target)
    print(text, end="")
    if options.out:
        write_text(options.out, text)
    if options.check:
        check_fits(estimates, machine)
    return Outcome(artifacts=[options.out] if options.out else [])


def _whole_config(options: argparse.Namespace):
    """The configuration of `--config FILE`, or of `--settings JSON`."""
    from longrope.checks import check_config, load_config
    from longrope.config import Config
    from longrope.reading import read_settings

    if options.settings:
        config = read_settings(Config, options.settings)
        check_config(config)
        return config
    import yaml

    try:
        raw = yaml.safe_load(options.config.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"--config {options.config}: cannot be read ({error})") from None
    return load_config(raw)


def _sync(options: argparse.Namespace) -> None:
    from longrope.tracking import sync

    report = sync(options.records, options.uri, options.experiment)
    print(report)


def _schema(options: argparse.Namespace) -> None:
    from longrope.config import json_schema

    print(json.dumps(json_schema(), indent=1))


def build_parser() -> argparse.ArgumentParser:
    """Every sub-command with its options."""
    parser = argparse.ArgumentParser(
        prog="longrope", description="Longer context windows by searched RoPE rescale factors."
    )
    parser.add_argument("--version", action="version", version=f"longrope {__version__}")
    parser.add_argument("--log", type=Path, help="also write what is printed to this file")
    parser.set_defaults(stage=None, run_id=uuid.uuid4().hex)
    stages = parser.add_subparsers(metavar="STAGE")

    stage = _stage(stages, "import-model", _import_model, "bring a checkpoint in")
    stage.add_argument("--name", required=True, help="its name in results/")
    _files(stage, "--out")
    _settings(stage)

    stage = _stage(stages, "pretrain", _pretrain, "train a small model from nothing")
    stage.add_argument("--name", required=True, help="its name in results/")
    _files(stage, "--out", "--state")
    _settings(stage)

    stage = _stage(stages, "card", _card, "describe a model that was trained here")
    _files(stage, "--model", "--tokens", "--out")
    _many(stage, "--records")

    stage = _stage(stages, "tokenize", _tokenize, "split a corpus and tokenise it for a model")
    _files(stage, "--model", "--out")
    _settings(stage)

    stage = _stage(stages, "derive", _derive, "derive factors from a closed form")
    stage.add_argument("method", help="pi, ntk, yarn, ...; with -on-tuned, on the tuned factors")
    stage.add_argument("--window", type=_window, required=True)
    _files(stage, "--model", "--out")

    stage = _stage(stages, "search", _search, "search factors for one window")
    _files(stage, "--model", "--tokens", "--out", "--trace", "--state")
    stage.add_argument("--recovery", action="store_true", help="a short window of a tuned model")
    stage.add_argument(
        "--warm", type=Path, nargs="?", help="factors of a shorter window to start from"
    )
    stage.add_argument("--plot", type=Path, help="draw factors and progress to this file")
    _settings(stage)

    stage = _stage(stages, "finetune", _finetune, "fine-tune with the factors of one window")
    _files(stage, "--model", "--factors", "--tokens", "--out", "--metrics", "--state")
    _settings(stage)

    stage = _stage(stages, "assemble", _assemble, "put the factors of all windows together")
    _files(stage, "--model", "--out")
    _many(stage, "--factors")

    stage = _stage(
        stages, "evaluate-perplexity", _evaluate_perplexity, "perplexity of held-out documents"
    )
    _files(stage, "--model", "--tokens", "--out", "--state")
    _many(stage, "--factors")
    _settings(stage)

    stage = _stage(stages, "evaluate-passkey", _evaluate_passkey, "retrieval of passkeys")
    _files(stage, "--model", "--out", "--state")
    _many(stage, "--factors")
    _settings(stage)

    stage = _stage(
        stages, "evaluate-benchmarks", _evaluate_benchmarks, "questions of lm-evaluation-harness"
    )
    _files(stage, "--model", "--out", "--state")
    _many(stage, "--factors")
    _settings(stage)

    stage = _stage(stages, "evaluate-ruler", _evaluate_ruler, "retrieval of RULER's needles")
    _files(stage, "--model", "--out", "--state", "--samples")
    _many(stage, "--factors")
    _settings(stage)

    stage = _stage(stages, "tabulate", _tabulate, "one table of what was measured")
    stage.add_argument("table", help="table05, passkey, searches, ...")
    _files(stage, "--paper", "--out")
    _many(stage, "--records", "--traces", "--trainings")
    _settings(stage)

    stage = _stage(stages, "summarise", _summarise, "which claims of the method are borne out")
    _files(stage, "--out")
    _many(stage, "--records")
    _settings(stage)

    stage = _stage(stages, "plot", _plot, "one figure of what was measured")
    stage.add_argument("figure", help="figure1, figure4, depths, ...")
    _files(stage, "--out")
    _many(stage, "--records")
    _settings(stage)

    stage = _stage(stages, "import-factors", _import_factors, "read factors of other makers")
    origin = stage.add_mutually_exclusive_group(required=True)
    origin.add_argument("--csv", type=Path, help="a table as the paper's authors publish them")
    origin.add_argument("--checkpoint", type=Path, help="a checkpoint with a longrope block")
    stage.add_argument("--model", type=Path, help="the checkpoint that the csv is for")
    stage.add_argument("--window", type=_window, help="the window that the csv is for")
    stage.add_argument("--n-hat", type=int, default=0, help="which the csv does not say")
    stage.add_argument("--which", choices=("long", "short"), default="long")
    _files(stage, "--out")

    stage = _stage(
        stages, "fetch-benchmarks", _fetch_benchmarks, "get all that benchmarks need offline",
        tracked=False,
    )  # fmt: skip
    stage.add_argument("--questions", type=int, help="at most so many of each, evenly chosen")
    _files(stage, "--out")

    stage = _stage(stages, "plan", _plan, "what a study will cost, before it is run", tracked=False)
    origin = stage.add_mutually_exclusive_group(required=True)
    origin.add_argument("--config", type=Path, help="a configuration file")
    origin.add_argument("--settings", metavar="JSON", help="the same as JSON")
    stage.add_argument("--gpu", required=True, help="a100-80gb, h100-80gb, ...; cpu: one core")
    stage.add_argument("--gpus", type=int, default=1, help="that one job may have (1)")
    stage.add_argument("--memory", type=float, help="GiB of one, if not what is known")
    stage.add_argument("--flops", type=float, help="FLOP/s of one, if not what is known")
    stage.add_argument("--utilisation", type=float, help="share of them (0.4)")
    stage.add_argument("--target", default="all", help="all, or study (with the ablations)")
    stage.add_argument("--check", action="store_true", help="fail if a job does not fit")
    stage.add_argument("--out", type=Path, help="also write the plan to this file")

    stage = _stage(stages, "sync", _sync, "put finished runs into MLflow", tracked=False)
    stage.add_argument("--records", type=Path, default=Path("logs"), help="where *.run.json are")
    stage.add_argument("--uri", help="tracking server; MLFLOW_TRACKING_URI, or ./mlflow.db")
    stage.add_argument("--experiment", default="longrope")

    _stage(stages, "schema", _schema, "print the JSON schema of a configuration", tracked=False)
    return parser


def _window(text: str) -> int:
    from longrope.windows import parse_window

    try:
        return parse_window(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _stage(stages, name: str, run: Callable, help: str, tracked: bool = True):
    stage = stages.add_parser(name, help=help, description=help)
    stage.set_defaults(stage=name, run=run, tracked=tracked)
    return stage


def _files(stage: argparse.ArgumentParser, *flags: str) -> None:
    for flag in flags:
        stage.add_argument(flag, type=Path, required=True)


def _many(stage: argparse.ArgumentParser, *flags: str) -> None:
    for flag in flags:
        stage.add_argument(flag, type=Path, nargs="*", required=True)


def _settings(stage: argparse.ArgumentParser) -> None:
    stage.add_argument(
        "--settings", required=True, metavar="JSON", help="this stage's slice of the configuration"
    )


if __name__ == "__main__":
    sys.exit(main())
