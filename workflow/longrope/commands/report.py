"""
Tables, figures and the summary of what was measured.
"""

import argparse

from longrope.commands.command import new_command
from longrope.tracking.run import Outcome

MEASURED = "results/*/*/evaluation/*/*.json"


def add_to(parsers) -> None:
    """Their parsers."""
    out = "the file that is written, without its ending"

    command = new_command(
        parsers, "tabulate", tabulate, "one table of what was measured",
        f"tabulate table05 --records {MEASURED} --traces --trainings"
        " --paper resources/paper/tables.csv --out table05 --settings @config.json",
    )  # fmt: skip
    command.add_argument("table", help="table05, passkey, searches, ...")
    command.add_files("--paper", "--out", out=f"{out}: .csv, .md and .tex")
    command.add_lists("--records", "--traces", "--trainings")
    command.add_settings()

    command = new_command(
        parsers, "summarise", summarise, "which claims of the method are borne out",
        f"summarise --records {MEASURED} --out summary --settings @config.json",
    )  # fmt: skip
    command.add_files("--out", out=f"{out}: .md and .json")
    command.add_lists("--records")
    command.add_settings()

    command = new_command(
        parsers, "plot", plot, "one figure of what was measured",
        f"plot figure1 --records {MEASURED} --out figure1 --settings @config.json",
    )  # fmt: skip
    command.add_argument("figure", help="figure1, figure4, depths, ...")
    command.add_files("--out", out=f"{out}: .png, .pdf, .html, and .csv with what it draws")
    command.add_lists("--records")
    command.add_settings()


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
