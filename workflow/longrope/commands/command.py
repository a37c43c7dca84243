"""
The parser of a sub-command, and the arguments that several of them take.
"""

import argparse
import contextlib
import itertools
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from longrope.errors import UserError, meant
from longrope.parallel.place import here

HELP = {  # of the files that several commands take
    "--model": "a checkpoint of the workflow: a folder with longrope.json",
    "--tokens": "one split of a tokenised corpus: a folder with manifest.json",
    "--factors": "factors.json, or extended.json, of this model",
    "--records": "JSON files that evaluations wrote",
    "--traces": "trace.jsonl of searches",
    "--trainings": "metrics.jsonl of tunings",
    "--paper": "the paper's numbers: resources/paper/tables.csv",
    "--out": "what is written",
    "--trace": "the .jsonl file that gets every score of the search, a line each",
    "--metrics": "the .jsonl file that gets loss, rate and seconds, a line a step",
    "--state": "a folder for progress; a killed command goes on from there",
    "--samples": "a folder for prompts, which all methods share",
}


class Command(argparse.ArgumentParser):
    """The parser of one sub-command."""

    about: str  # what it does, in half a line

    def parse_known_args(self, args=None, namespace=None):
        """Also an optional word that stands behind options: argparse takes it for left out as soon
        as an option stands between it and the word before. A misspelt option is named before what
        is then missing."""
        self._check_options(args or [])
        namespace, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            optional = action.nargs == "?" and not action.option_strings
            word = len(rest) == 1 and (rest[0] == "-" or not rest[0].startswith("-"))
            if optional and word and getattr(namespace, action.dest) is None:
                setattr(namespace, action.dest, self._get_values(action, rest))
                rest = []
        return namespace, rest

    def _check_options(self, args: list[str]) -> None:
        """End with the nearest option where one is unknown; not of a parser with sub-commands."""
        known = [each for each in self._option_string_actions if each.startswith("--")]
        for word in () if self._subparsers else itertools.takewhile("--".__ne__, args):
            flag = word.split("=")[0]
            if re.fullmatch(r"--\S+", word) and not any(each.startswith(flag) for each in known):
                self.error(f"unknown {flag}{meant(flag, known) or '; --help lists the options'}")

    def _check_value(self, action, value) -> None:
        """Also which of many choices was meant."""
        if action.choices is not None and value not in action.choices:
            names = [str(each) for each in action.choices]
            said = f"unknown {value!r}{meant(value, names) or '; one of ' + ', '.join(names)}"
            raise argparse.ArgumentError(action, said)

    def add_files(self, *flags: str, **helps: str) -> None:
        """Paths that have to be given; `helps` replace what is said of them elsewhere."""
        for flag in flags:
            said = helps.get(flag[2:], HELP[flag])
            self.add_argument(flag, type=Path, required=True, metavar="PATH", help=said)

    def add_lists(self, *flags: str) -> None:
        """Lists of paths that have to be given, and may be empty."""
        for flag in flags:
            self.add_argument(
                flag, type=Path, nargs="*", required=True, metavar="PATH", help=HELP[flag]
            )

    def add_settings(self) -> None:
        """Its slice of the configuration."""
        self.add_argument(
            "--settings",
            required=True,
            metavar="JSON",
            help="its slice of the configuration as JSON; @FILE reads that from a file",
        )


def new_command(
    parsers, name: str, run: Callable, about: str, *examples: str, more: str = "", tracked=True
) -> Command:
    """A sub-command that calls `run`, with examples (each without `longrope`) below its options."""
    said = f"{about[0].upper()}{about[1:]}." + f" {more}" * bool(more)
    command: Command = parsers.add_parser(
        name,
        description=textwrap.fill(said, 80),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["examples:", *(f"  longrope {each}" for each in examples)]),
    )
    command.about = about
    command.set_defaults(stage=name, run=run, tracked=tracked)
    return command


def count(text: str) -> int:
    """A whole number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def name(text: str) -> str:
    """What a folder below results/ may be called."""
    from longrope.config.base import NAME

    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: a letter or digit, then letters, digits, dots, dashes and underscores"
        )
    return text


def address(text: str) -> str:
    """HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT")
    return text


def window(text: str) -> int:
    """Tokens, of a number or a label such as 8k."""
    from longrope.windows import parse_window

    try:
        return parse_window(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def live_run(options: argparse.Namespace):
    """Where MLFLOW_TRACKING_URI is set, metrics go there as they come; else nowhere."""
    from longrope.tracking.live import LiveRun

    if not here().leads:
        return contextlib.nullcontext(SimpleNamespace(log=lambda record: None))
    return LiveRun(options.run_id, str(options.log and options.log.with_suffix("")))
