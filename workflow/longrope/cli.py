"""
The command line: one sub-command a stage, each named after the verb that its rule does, and those
around the workflow (own models, finished ones, any checkpoint).

This module imports nothing heavy, so that `longrope --help` answers at once. `commands/` has what
each sub-command takes and does, `job.py` what surrounds them.
"""

import argparse
import sys
import uuid
from pathlib import Path

from longrope import __version__
from longrope.commands import evaluate, exporting, factors, models, own_model, plan, report
from longrope.commands.command import Command, address, count
from longrope.errors import UserError
from longrope.job import run_rank, run_several, run_stage
from longrope.logs import discard_output, logging_to, reader_is_gone
from longrope.parallel.launch import SPREAD, wants_several
from longrope.parallel.place import PATIENCE, check_groups, is_rank

GROUPS = {
    "a model of your own": own_model,
    "an extended model for others": exporting,
    "before and around a study": plan,
    "what the workflow runs: models and texts": models,
    "what the workflow runs: factors and weights": factors,
    "what the workflow runs: measurements": evaluate,
    "what the workflow runs: the report": report,
}
ABOUT = "Longer context windows by searched RoPE rescale factors."
EXAMPLES = """\
examples:
  longrope check models/mine
  longrope extend models/mine --to 32k --text "texts/*.txt" --hours 24
  longrope generate mine-32k/results/mine/longrope-32k --file book.txt --question "Who is Anne?"

`longrope COMMAND --help` has the options of a command, and examples."""


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; 0 = done, 1 = the user can mend it (one line says how), 2 = usage.

    And those of `run_stage`. 141 where nobody reads on, as behind `| head -1`."""
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not reader_is_gone():
            raise
        discard_output()
        return 141


def _main(arguments: list[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.stage is None:
        parser.print_help()
        return 2
    try:
        if is_rank():
            return run_rank(options)
        check_groups(options.processes * options.nodes, options.per_sequence)
        with logging_to(options.log):
            return run_several(options, arguments) if wants_several(options) else run_stage(options)
    except UserError as error:
        print(f"longrope: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Every sub-command with its options."""
    parser = Command(
        prog="longrope",
        epilog=EXAMPLES,
        usage="longrope [OPTIONS] COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"longrope {__version__}")
    parser.add_argument("--log", type=Path, metavar="FILE", help="also write what is printed there")
    several = parser.add_argument_group("several processes", f"for {', '.join(SPREAD)}")
    several.add_argument(
        "--processes", type=count, default=1, help="on each machine, one a GPU (default 1)"
    )
    several.add_argument(
        "--nodes", type=count, default=1, help="machines, of a Slurm job (default 1)"
    )
    several.add_argument(
        "--per-sequence", type=count, default=1, metavar="PROCESSES",
        help="processes that hold one sequence together (default 1)",
    )  # fmt: skip
    several.add_argument(
        "--patience", type=float, default=PATIENCE, metavar="SECONDS",
        help=f"that one waits for another before all give up (default {PATIENCE:g})",
    )  # fmt: skip
    several.add_argument(
        "--rendezvous", type=address, metavar="HOST:PORT",
        help="where machines meet; a Slurm job finds its own",
    )  # fmt: skip
    parser.set_defaults(stage=None, run_id=uuid.uuid4().hex)
    parsers = parser.add_subparsers(
        metavar="COMMAND", prog="longrope", parser_class=Command, help=argparse.SUPPRESS
    )  # fmt: skip
    groups = [_group(parsers, *group) for group in GROUPS.items()]
    parser.description = "\n\n".join([ABOUT, *groups])
    return parser


def _group(parsers, title: str, module) -> str:
    """Add the commands of a module; what the help says of them."""
    before = len(parsers.choices)
    module.add_to(parsers)
    added = list(parsers.choices.items())[before:]
    return "\n".join([f"{title}:", *(f"  {name:<23}{each.about}" for name, each in added)])


if __name__ == "__main__":
    sys.exit(main())
