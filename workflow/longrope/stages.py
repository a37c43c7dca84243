"""
What each sub-command does with its options: the stage's own settings read, its function called, and
what it left behind for the run record.

Nothing heavy is imported before a stage runs.
"""

import argparse
import contextlib
import json
from types import SimpleNamespace

from longrope.errors import UserError
from longrope.job import Outcome
from longrope.parallel.place import here


def _live(options: argparse.Namespace):
    """Where MLFLOW_TRACKING_URI is set, metrics go there as they come; else nowhere."""
    from longrope.tracking import LiveRun

    if not here().leads:
        return contextlib.nullcontext(SimpleNamespace(log=lambda record: None))

    return LiveRun(options.run_id, str(options.log and options.log.with_suffix("")))


def import_model(options: argparse.Namespace) -> Outcome:
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


def pretrain(options: argparse.Namespace) -> Outcome:
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


def card(options: argparse.Namespace) -> Outcome:
    from longrope.report.card import write_card

    write_card(options.model, options.tokens, options.records, options.out)
    return Outcome(artifacts=[options.out])


def tokenize(options: argparse.Namespace) -> Outcome:
    from longrope.config.corpus import TokenizeSettings
    from longrope.corpus import SPLITS, tokenize_corpus
    from longrope.models import load_tokenizer
    from longrope.reading import read_settings

    stage = read_settings(TokenizeSettings, options.settings)
    folders = {split: options.out / split for split in SPLITS}
    tokenize_corpus(stage, load_tokenizer(options.model), folders)
    return Outcome(artifacts=[folder / "manifest.json" for folder in folders.values()])


def derive(options: argparse.Namespace) -> Outcome:
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


def assemble(options: argparse.Namespace) -> Outcome:
    from longrope.extended import make_tiers, write_extended
    from longrope.factors import describe, read_factors
    from longrope.models import read_record

    rope = read_record(options.model).rope
    tiers = make_tiers([read_factors(path, rope) for path in options.factors])
    write_extended(options.out, tiers, options.model)
    for each in tiers.factors:
        print(describe(each))
    return Outcome(artifacts=[options.out / "extended.json"])


def export(options: argparse.Namespace) -> Outcome:
    from longrope.export.engines import find_engine
    from longrope.export.stage import Export, export_model, summary

    default = "llama.cpp" if options.form == "gguf" else "transformers"
    asked = Export(
        options.form,
        find_engine(options.engine or default),
        options.tier,
        options.two_tables,
        options.dtype,
        options.licence,
    )
    written = export_model(
        asked, options.model, options.factors, options.out, options.records, options.trainings
    )
    print("\n".join(summary(asked, written, options.out)))
    return Outcome(artifacts=[options.out / "README.md", options.out / "longrope_export.json"])


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


def fetch_benchmarks(options: argparse.Namespace) -> None:
    from longrope.evaluate.questions import fetch_questions

    for name, count in fetch_questions(options.out, options.questions).items():
        print(f"{name}: {count:,} questions")


def tabulate(options: argparse.Namespace) -> Outcome:
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


def summarise(options: argparse.Namespace) -> Outcome:
    from longrope.config import Config
    from longrope.reading import read_settings
    from longrope.report.summary import write_summary

    write_summary(read_settings(Config, options.settings), options.records, options.out)
    return Outcome(artifacts=[options.out.with_suffix(".json")])


def plot(options: argparse.Namespace) -> Outcome:
    from longrope.config import Config
    from longrope.reading import read_settings
    from longrope.report.figures import plot

    plot(options.figure, read_settings(Config, options.settings), options.records, options.out)
    return Outcome(artifacts=[options.out.with_suffix(".png")])


def import_factors(options: argparse.Namespace) -> Outcome:
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


def plan(options: argparse.Namespace) -> Outcome:
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
    text, estimates = plan(config, machine, options.target, options.simulate, options.efficiency)
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


def sync(options: argparse.Namespace) -> None:
    from longrope.tracking import sync

    report = sync(options.records, options.uri, options.experiment)
    print(report)


def schema(options: argparse.Namespace) -> None:
    from longrope.config import json_schema

    if options.markdown:
        from longrope.config.reference import markdown

        print(markdown(json_schema()), end="")
    else:
        print(json.dumps(json_schema(), indent=1))
