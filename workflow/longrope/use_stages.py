"""
What the sub-commands do that no rule runs: auditing, using a model, extending one's own.

As in `stages.py`, nothing heavy is imported before a stage runs.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from longrope.errors import UserError
from longrope.job import Outcome


def check(options: argparse.Namespace) -> None:
    from longrope.audit import check

    report = check(options.checkpoint)
    if options.engine:
        report = report.only(options.engine)
    print(json.dumps(report.as_json(), indent=1) if options.json else report.as_text())
    if report.failed:
        errors = sum(each.severity == "error" for each in report.findings)
        raise UserError(f"{options.checkpoint}: {errors} error{'s' if errors > 1 else ''}")


def evaluate_instructions(options: argparse.Namespace) -> Outcome:
    from longrope.evaluate.instructions import evaluate_instructions

    metrics = evaluate_instructions(options.model, options.factors, options.out, options.at)
    print(f"{metrics['matched']:.0%} answered, log-probability {metrics['log_prob']:.3f}")
    return Outcome(metrics, artifacts=[options.out])


def init(options: argparse.Namespace) -> None:
    from longrope.files import write_text

    made = _own_configuration(options, _found(options))
    path = options.out or Path(f"{next(iter(made.config.models))}.yaml")
    write_text(path, made.text)
    print(
        f"{path}: look at its jobs with `snakemake --dry-run --configfile {path}`, and run it"
        f" with `snakemake --cores all --configfile {path}`"
    )


def extend(options: argparse.Namespace) -> None:
    from longrope.files import write_text
    from longrope.own_model import extend
    from longrope.windows import window_label

    project, found = extend.find_project(options.project), _found(options)
    trial = "-trial" * options.trial  # whose budgets are not those of a real run
    folder = options.out or Path(f"{found.name}-{window_label(options.to)}{trial}")
    path = folder / "config.yaml"
    if path.exists():  # anew, the machine would measure otherwise, and other jobs would be due
        config = extend.begun(path, found, options.to)
    else:
        made = _own_configuration(options, found)
        config = made.config
        # What is only looked at decides nothing of what is run later.
        path = folder / "dry-run.yaml" if options.dry_run else path
        write_text(path, made.text)
    more = ["--dry-run"] if options.dry_run else []
    extend.run_workflow(project, folder, path, options.cores, *more)
    if options.dry_run:
        return
    places = extend.places_of(config, folder, options.to)
    print(extend.check_instructions(places))
    extend.export(places, folder / "export")
    print(
        f"done: {folder}/results/tables/summary.md has what was measured, {folder}/export the model"
        f" for other tools; from Python: {places.call}"
    )


def _found(options: argparse.Namespace):
    """The checkpoint that is to be extended, by the name that was given."""
    from longrope.own_model.checkpoint import find, name_of

    found = find(options.checkpoint)
    found = replace(found, name=name_of(options.name)) if options.name else found
    print(found.line)
    return found


def _own_configuration(options: argparse.Namespace, found):
    """The configuration for a checkpoint, with what is to be known of it printed."""
    from longrope.own_model.configuration import check_hours, configure
    from longrope.own_model.extend import find_project
    from longrope.own_model.importable import check_importable
    from longrope.own_model.texts import carried, find_texts
    from longrope.plan.machine import find_machine
    from longrope.windows import window_label

    check_hours(options.hours)
    check_importable(found)
    if options.text:
        corpus = find_texts(options.text, found.vocabulary, options.to)
    else:
        corpus = carried(find_project(options.project), found.vocabulary, options.to)
        print(
            "Text: the carried books, which most models have read in training; --text GLOB names"
            " your own"
        )
    made = configure(
        found, options.to, corpus, find_machine(options.gpu), options.hours, trial=options.trial,
        command=f"longrope {options.stage} --to {window_label(options.to)}"
        + " --trial" * options.trial,
    )  # fmt: skip
    print(f"Budget {made.level.name!r}: {made.hours:.2g} hours of one {options.gpu} by plan")
    for note in made.notes:
        print(f"Note: {note}")
    return made


def generate(options: argparse.Namespace) -> None:
    from longrope.generate import Decoding, check_room, prompt_text, prompt_tokens, stream
    from longrope.use import load
    from longrope.windows import window_label

    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    text = prompt_text(prompt, options.file, options.question)
    how = Decoding(options.new_tokens, options.temperature, options.seed)
    model, tokenizer = load(options.path, options.factors, other_weights=options.other_weights)
    tokens = prompt_tokens(tokenizer, text, options.question, chat=not options.raw)
    check_room(model.tiers, tokens.shape[1], how.new_tokens)
    tier = model.tiers.for_length(tokens.shape[1] + how.new_tokens)
    print(
        f"{tokens.shape[1]:,} tokens of prompt, up to {how.new_tokens:,} new:"
        f" factors of {window_label(tier.window)} ({tier.method})",
        file=sys.stderr,
    )
    stream(model, tokenizer, tokens, how)


def factors(options: argparse.Namespace) -> None:
    from longrope.catalogue import entry, listing, one_of, summary, write_out
    from longrope.factors import record_of_factors

    if options.name is None:
        print(listing())
        return
    found = entry(options.name)
    if options.out:
        for path in write_out(found, options.out, options.window):
            print(path)
    elif options.json or options.window:
        print(json.dumps(record_of_factors(one_of(found, options.window)), indent=1))
    else:
        print(summary(found))


def publish(options: argparse.Namespace) -> None:
    from longrope.publish import publish

    path = publish(
        options.name,
        options.about,
        options.model,
        options.factors,
        options.records,
        options.command,
        options.out,
    )
    print(path)
