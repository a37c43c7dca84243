"""
A model of one's own: the audit of a checkpoint, its configuration, its extension, its use.
"""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from longrope.commands.command import Command, name, new_command, window
from longrope.errors import UserError
from longrope.export import FORMS

CPU, HOURS = "cpu", 12.0  # what a configuration is made for unless it is said


def add_to(parsers) -> None:
    """Their parsers."""
    command = new_command(
        parsers, "check", check, "audit any checkpoint: what is wrong with its RoPE, and where",
        "check models/mine", "check models/mine --engine vllm sglang", "check mine.gguf --json",
        more="0: no error was found; 1: some were.", tracked=False,
    )  # fmt: skip
    command.add_argument("checkpoint", type=Path, help="a folder, a config.json or a GGUF file")
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.add_argument(
        "--engine", nargs="+", default=[],
        help="only what concerns these: vllm, transformers-4, ... (default all)",
    )  # fmt: skip

    command = new_command(
        parsers, "init", init, "write a configuration for a checkpoint",
        "init models/mine --to 32k", 'init models/mine --to 32k --text "texts/*.txt" --hours 24',
        tracked=False,
    )  # fmt: skip
    _own_model(command)
    command.add_argument("--out", type=Path, help="the YAML file (default NAME.yaml)")

    command = new_command(
        parsers, "extend", extend, "init, the workflow and the export in one go",
        "extend models/mine --to 32k --trial",
        'extend models/mine --to 32k --text "texts/*.txt" --hours 24',
        more="After a kill the same command goes on.", tracked=False,
    )  # fmt: skip
    _own_model(command)
    command.add_argument("--out", type=Path, help="a folder for all results (default NAME-WINDOW)")
    command.add_argument("--cores", default="all", help="of the workflow (default all)")
    command.add_argument("--dry-run", action="store_true", help="only list the jobs")
    command.add_argument(
        "--export", nargs="+", choices=tuple(FORMS), default=["native"],
        metavar="FORM",
        help="what to export it as: native (transformers, vLLM, SGLang), full (all tiers), gguf"
        " (llama.cpp, Ollama); default native",
    )  # fmt: skip

    command = new_command(
        parsers, "generate", generate, "continue a prompt, or answer a question over a long file",
        'generate results/mine/longrope-16k "Write a short letter." --new-tokens 300',
        'generate results/mine/longrope-16k --file book.txt --question "Who is Anne?"',
        'generate models/mine --factors factors.json "Once upon a time"',
        "generate results/mine/longrope-16k - < prompt.txt",
        tracked=False,
    )  # fmt: skip
    command.add_argument("path", type=Path, help="results/MODEL/WEIGHTS, or a checkpoint")
    command.add_argument(
        "prompt", nargs="?", help="to continue, or to answer; - reads it from stdin"
    )
    command.add_argument(
        "--factors", help="a file, or a published entry (default extended/ of the path)"
    )
    command.add_argument(
        "--other-weights", action="store_true",
        help="take factors that were searched on another tuning of the model",
    )  # fmt: skip
    command.add_argument("--file", type=Path, help="a long text instead of a prompt")
    command.add_argument("--question", help="that is asked about the file")
    command.add_argument(
        "--new-tokens", type=int, default=200, help="at most so many are written (default 200)"
    )
    command.add_argument(
        "--temperature", type=float, default=0.0,
        help="of the sampling; 0 takes the likeliest token (default 0)",
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=1, help="of the sampling (default 1)")
    command.add_argument("--raw", action="store_true", help="without the tokenizer's chat template")


def _own_model(command: Command) -> None:
    command.add_argument("checkpoint", type=Path, help="a folder, or a GGUF file")
    command.add_argument(
        "--to", type=window, required=True, help="the long window in tokens, such as 32k"
    )
    command.add_argument(
        "--text", nargs="+", metavar="GLOB", help="your texts (default the carried books)"
    )
    command.add_argument("--name", type=name, help="in results/ (default that of the folder)")
    command.add_argument(
        "--gpu", default=CPU, help="a100-80gb, h100-80gb, ...; cpu: one core (default cpu)"
    )
    command.add_argument(
        "--hours", type=float, default=HOURS, help="that it may take, by plan (default 12)"
    )
    command.add_argument("--trial", action="store_true", help="the least of all: does it run?")
    command.add_argument(
        "--project", type=Path,
        help="a checkout whose workflow is used (default this folder, or what was installed)",
    )  # fmt: skip


def check(options: argparse.Namespace) -> None:
    from longrope.audit import check

    report = check(options.checkpoint)
    if options.engine:
        report = report.only(options.engine)
    print(json.dumps(report.as_json(), indent=1) if options.json else report.as_text())
    if report.failed:
        errors = sum(each.severity == "error" for each in report.findings)
        raise UserError(f"{options.checkpoint}: {errors} error{'s' if errors > 1 else ''}")


def init(options: argparse.Namespace) -> None:
    from longrope.files import write_text
    from longrope.own_model.extend import find_project

    project, found = find_project(options.project), _found(options)
    path = options.out or Path(f"{found.name}.yaml")
    if path.exists():
        raise UserError(f"{path}: is there, perhaps with changes: delete it, or name another --out")
    write_text(path, _own_configuration(options, found).text)
    if Path("results", found.name).exists():
        print(
            f"note: results/{found.name} is there already: what this configuration names alike in"
            " it is made anew; another --name keeps both"
        )
    flow = "" if project == Path.cwd() else f"--snakefile {shlex.quote(str(project))}/Snakefile "
    print(
        f"{path}: look at its jobs with `snakemake --dry-run {flow}--configfile {path}`, and run it"
        f" with `snakemake --cores all {flow}--configfile {path}`"
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
    (model,) = config.models.values()
    exports = extend.export(places, model.export, options.export)
    print(f"done: what was measured: {folder}/results/tables/summary.md")
    print("\n".join(extend.came_of_it(config, folder)))
    print("\n".join([*exports, f"from Python: {places.call}"]))
    if options.trial:
        print("This was a trial: it shows that every stage runs, its factors are worth nothing")
        options.trial = False
        print(f"next: {_command(options, options.checkpoint)}{_run_as(options)}")


def _found(options: argparse.Namespace):
    """The checkpoint that is to be extended, by the name that was given."""
    from longrope.own_model.checkpoint import find

    found = find(options.checkpoint)
    found = replace(found, name=options.name) if options.name else found
    print(found.line)
    return found


def _own_configuration(options: argparse.Namespace, found):
    """The configuration for a checkpoint, with what is to be known of it printed."""
    from longrope.own_model.configuration import check_hours, check_target, configure
    from longrope.own_model.extend import find_project
    from longrope.own_model.importable import check_importable
    from longrope.own_model.texts import carried, find_texts
    from longrope.plan.machine import find_machine
    from longrope.plan.text import hours_text

    check_hours(options.hours)
    check_target(found, options.to)
    machine = find_machine(options.gpu)
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
        found, options.to, corpus, machine, options.hours, trial=options.trial,
        command=_command(options),
    )  # fmt: skip
    print(
        f"Budget {made.level.name!r}: {hours_text(made.hours)} of one {options.gpu} by plan, for"
        " the stages alone: each of some thirty jobs takes seconds to start, more if it is busy"
    )
    for note in made.notes:
        print(f"Note: {note}")
    return made


def _command(options: argparse.Namespace, checkpoint: Path | None = None) -> str:
    """What makes the configuration again; without a checkpoint for a file that names it."""
    from longrope.windows import window_label

    words = ["longrope", options.stage, *([str(checkpoint)] if checkpoint else [])]
    words += ["--to", window_label(options.to)]
    words += ["--text", *options.text] if options.text else []
    words += ["--gpu", options.gpu] if options.gpu != CPU else []
    words += ["--hours", f"{options.hours:g}"] if options.hours != HOURS else []
    words += ["--trial"] if options.trial else []
    words += ["--name", options.name] if options.name else []
    line = shlex.join(words)
    return line if line.isprintable() else ascii(line)[1:-1]  # it becomes a comment of one line


def _run_as(options: argparse.Namespace) -> str:
    """The options of `extend` that say nothing of the configuration."""
    words = ["--project", str(options.project)] if options.project else []
    words += ["--cores", options.cores] if options.cores != "all" else []
    words += ["--export", *options.export] if options.export != ["native"] else []
    return "".join(f" {each}" for each in map(shlex.quote, words))


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
        f" factors of {window_label(tier.window)} ({tier.origin})",
        file=sys.stderr,
    )
    stream(model, tokenizer, tokens, how)
