"""
Around a study: what it will cost, the schema of its configuration, its runs in MLflow.
"""

import argparse
import json
import math
from pathlib import Path

from longrope.commands.command import count, new_command
from longrope.errors import UserError
from longrope.plan.schedule import EFFICIENCY
from longrope.tracking.run import Outcome


def add_to(parsers) -> None:
    """Their parsers."""
    command = new_command(
        parsers, "plan", plan, "what a study will cost, before it is run",
        "plan --config config/paper.yaml --gpu a100-80gb",
        "plan --config config/paper.yaml --gpu a100-80gb --target study --simulate 1 8 64",
        "plan --config mine.yaml --gpu cpu",
        tracked=False,
    )  # fmt: skip
    origin = command.add_mutually_exclusive_group(required=True)
    origin.add_argument("--config", type=Path, help="a configuration file")
    origin.add_argument("--settings", metavar="JSON", help="the same as JSON")
    command.add_argument("--gpu", required=True, help="a100-80gb, h100-80gb, ...; cpu: one core")
    command.add_argument(
        "--gpus", type=int, default=1, help="how many one job may have (default 1)"
    )
    command.add_argument(
        "--memory", type=float, metavar="GIB",
        help="GiB of one GPU (default what is known of it)",
    )  # fmt: skip
    command.add_argument(
        "--flops", type=float,
        help="FLOP/s of one GPU or core at best, such as 9.9e14 (default what is known of the GPU;"
        " of a core what is measured)",
    )  # fmt: skip
    command.add_argument(
        "--utilisation", type=float, metavar="SHARE",
        help="share of these FLOP/s that is reached, from 0 to 1 (default what was seen)",
    )  # fmt: skip
    command.add_argument(
        "--target", default="all", help="all, or study (with the ablations; default all)"
    )
    command.add_argument(
        "--simulate", type=count, nargs="+", default=[], metavar="GPUS",
        help="also say when all would be done with so many GPUs, such as 1 8 64",
    )  # fmt: skip
    command.add_argument(
        "--efficiency", type=float, default=EFFICIENCY, metavar="SHARE",
        help="share of a perfect speed-up that several GPUs reach, from 0 to 1 (default"
        f" {EFFICIENCY:g})",
    )  # fmt: skip
    command.add_argument("--check", action="store_true", help="exit with 1 if a job does not fit")
    command.add_argument("--out", type=Path, help="also write the plan to this file")

    command = new_command(
        parsers, "schema", schema, "print the JSON schema of a configuration",
        "schema > config.schema.json", "schema --markdown > configuration.md", tracked=False,
    )  # fmt: skip
    command.add_argument("--markdown", action="store_true", help="the same as a page for people")

    command = new_command(
        parsers, "sync", sync, "put finished runs into MLflow",
        "sync", "sync --records mine-16k/logs --uri http://localhost:5000", tracked=False,
    )  # fmt: skip
    command.add_argument(
        "--records", type=Path, default=Path("logs"),
        help="a folder with *.run.json (default logs)",
    )  # fmt: skip
    command.add_argument(
        "--uri", help="tracking server (default MLFLOW_TRACKING_URI, or ./mlflow.db)"
    )
    command.add_argument("--experiment", default="longrope", help="in MLflow (default longrope)")
    command.add_argument(
        "--seconds", type=float, default=math.inf,
        help="begin no further run after so many (default inf)",
    )  # fmt: skip


def plan(options: argparse.Namespace) -> Outcome:
    from longrope.files import write_text
    from longrope.models.window import check_folders
    from longrope.plan.machine import find_machine
    from longrope.plan.report import check_fits, plan

    config = _whole_config(options)
    check_folders(config)
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
    from longrope.reading import read_settings, read_yaml

    if options.settings:
        config = read_settings(Config, options.settings)
        check_config(config)
        return config
    return load_config(read_yaml(options.config))


def schema(options: argparse.Namespace) -> None:
    from longrope.config import json_schema

    if options.markdown:
        from longrope.config.reference import markdown

        print(markdown(json_schema()), end="")
    else:
        print(json.dumps(json_schema(), indent=1))


def sync(options: argparse.Namespace) -> None:
    from longrope.tracking.sync import sync

    report = sync(options.records, options.uri, options.experiment, seconds=options.seconds)
    print(report)
    if report.failed:
        raise UserError(
            f"of the runs below {options.records}, {report.failed} failed to get into MLflow, for"
            " what is said above: mend that and call it again, it adds what is missing"
        )
