"""
An extended model, or its factors, for others: the export, the published factors.
"""

import argparse
import json
from pathlib import Path

from longrope.commands.command import HELP, new_command, window
from longrope.errors import UserError
from longrope.export import FORMS
from longrope.tracking.run import Outcome


def add_to(parsers) -> None:
    """Their parsers."""
    place = "results/mine/longrope-16k"
    asked = f"--model {place}/model --factors {place}/extended/extended.json"
    command = new_command(
        parsers, "export", export, "export an extended model for other tools",
        f"export {asked} --out mine-16k",
        f"export --form gguf {asked} --out mine-16k-gguf",
        "export --model models/mine --factors NAME --out mine-16k",
        f"export --engine vllm --dtype bfloat16 {asked} --out mine-16k-vllm",
    )  # fmt: skip
    command.add_argument(
        "--form", choices=tuple(FORMS), default="native",
        help="native: transformers' own longrope; full: all tiers, with a modelling file; gguf: for"
        " llama.cpp (default native)",
    )  # fmt: skip
    command.add_argument(
        "--engine",
        help="transformers (also right in vLLM and SGLang), vllm, sglang, mlx, llama.cpp, or any"
        " (default transformers; llama.cpp for gguf)",
    )
    command.add_argument(
        "--tier", type=window, metavar="WINDOW",
        help="whose factors serve every length, such as 16k (default the longest)",
    )  # fmt: skip
    command.add_argument(
        "--two-tables", action="store_true", help="also the factors of the original window"
    )
    command.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"),
        help="in which weights are stored (default as they are)",
    )  # fmt: skip
    command.add_argument("--licence", help="of the base model, where nothing tells it; such as mit")
    command.add_argument(
        "--records", type=Path, nargs="*",
        help=f"{HELP['--records']}, for the card (default those beside the model, in"
        " */evaluation/)",
    )  # fmt: skip
    command.add_argument(
        "--trainings", type=Path, nargs="*",
        help=f"{HELP['--trainings']}, for the card (default those that led to the model)",
    )  # fmt: skip
    command.add_files(
        "--model", "--factors", "--out",
        model="a checkpoint of the workflow, or any other that the factors are for",
        factors="factors.json, or extended.json, or the name of a published entry",
        out="the folder that is made",
    )  # fmt: skip

    command = new_command(
        parsers, "factors", factors, "list, print or write published factors",
        "factors", "factors tiny-longrope-2k", "factors tiny-longrope-2k --out FOLDER",
        tracked=False,
    )  # fmt: skip
    command.add_argument("name", nargs="?", help="an entry, or its file; without it all are listed")
    command.add_argument(
        "--window", type=window,
        help="one of several, such as 16k (default all)",
    )  # fmt: skip
    command.add_argument("--out", type=Path, help="a folder, or with --window a file")
    command.add_argument("--json", action="store_true", help="print factors.json of one window")

    command = new_command(
        parsers, "publish", publish, "make an entry of published factors from results",
        f'publish --name mine-16k --about "Mine, 4k to 16k." --command "snakemake --cores all"'
        f" --model {place}/model --factors {place}/extended/extended.json"
        f" --records {place}/evaluation/*/extended.json --out mine-16k.json",
        tracked=False,
    )  # fmt: skip
    command.add_argument("--name", required=True, help="of the entry")
    command.add_argument("--about", required=True, help="one sentence for people")
    command.add_argument("--command", required=True, help="that made the results")
    command.add_files("--model")
    command.add_lists("--factors", "--records")
    command.add_argument("--out", type=Path, help="a JSON file (default one in the package)")


def export(options: argparse.Namespace) -> Outcome:
    from longrope.export.beside import records_beside, trainings_beside
    from longrope.export.engines import find_engine
    from longrope.export.source import source_of
    from longrope.export.stage import Export, check_out, export_model, summary

    default = "llama.cpp" if options.form == "gguf" else "transformers"
    asked = Export(
        options.form,
        find_engine(options.engine or default),
        options.tier,
        options.two_tables,
        options.dtype,
        options.licence,
    )
    records, trainings = options.records, options.trainings
    if records is None:
        records = records_beside(options.model)
    if trainings is None:
        trainings = trainings_beside(options.model)
    check_out(options.out, options.model, options.factors)
    with source_of(options.model, options.factors, options.out) as of:
        written = export_model(
            asked, of.model, of.factors, options.out, records, trainings, of.measured
        )
    print("\n".join(summary(asked, written, options.out)))
    return Outcome(artifacts=[options.out / "README.md", options.out / "longrope_export.json"])


def factors(options: argparse.Namespace) -> None:
    from longrope.catalogue import entry, listing, names, one_of, summary, write_out
    from longrope.factors import record_of_factors
    from longrope.windows import window_label

    if options.out and options.json:
        raise UserError("--json prints factors, --out writes them: one of the two")
    if options.name is None:
        given = {"--out": options.out, "--window": options.window, "--json": options.json}
        if asked := [flag for flag, value in given.items() if value]:
            raise UserError(
                f"{asked[0]} is of one entry: longrope factors NAME {asked[0]}; known are"
                f" {', '.join(names())}"
            )
        print(listing())
        return
    found = entry(options.name)
    several = len(found.tiers.factors) > 1 and options.window is None
    if options.json and several:
        labels = ", ".join(window_label(each.window) for each in found.tiers.factors)
        raise UserError(f"--json: {found.name} has factors for {labels}; say which with --window")
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
