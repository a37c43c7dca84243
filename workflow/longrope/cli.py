"""
The command line: one sub-command a stage, each named after the verb that its rule does.

This module imports nothing heavy, so that `longrope --help` answers at once. `stages.py` has what
each sub-command of the workflow does, `use_stages.py` those around it (own models, finished ones,
any checkpoint), `job.py` what surrounds them.
"""

import argparse
import re
import sys
import uuid
from pathlib import Path

from longrope import __version__, stages, use_stages
from longrope.errors import UserError
from longrope.job import logging_to, run_rank, run_several, run_stage
from longrope.parallel.launch import SPREAD, wants_several
from longrope.parallel.place import PATIENCE, check_groups, is_rank
from longrope.plan.schedule import EFFICIENCY

HELP = {  # of the files that several stages take
    "--model": "a checkpoint of the workflow: a folder with longrope.json",
    "--tokens": "one split of a tokenised corpus: a folder with manifest.json",
    "--factors": "factors.json, or extended.json, of this model",
    "--records": "files that evaluations wrote",
    "--traces": "trace.jsonl of searches",
    "--trainings": "metrics.jsonl of tunings",
    "--paper": "the paper's numbers: resources/paper/tables.csv",
    "--out": "what is written; for a table or figure without its ending",
    "--trace": "every score of the search, a line each",
    "--metrics": "loss, rate and time by step",
    "--state": "a folder for progress; a killed stage goes on from there",
    "--samples": "a folder for prompts, which all methods share",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; 0 = done, 1 = the user can mend it (one line says how), 2 = usage.

    And those of `run_stage`."""
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
    parser = argparse.ArgumentParser(
        prog="longrope", description="Longer context windows by searched RoPE rescale factors."
    )
    parser.add_argument("--version", action="version", version=f"longrope {__version__}")
    parser.add_argument("--log", type=Path, help="also write what is printed to this file")
    several = parser.add_argument_group("several processes", f"for {', '.join(SPREAD)}")
    several.add_argument("--processes", type=_count, default=1, help="on each, one a GPU (1)")
    several.add_argument("--nodes", type=_count, default=1, help="machines, of a Slurm job (1)")
    several.add_argument(
        "--per-sequence", type=_count, default=1, help="processes that hold one sequence (1)"
    )
    several.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        metavar="SECONDS",
        help=f"that one waits for another before all give up ({PATIENCE:g})",
    )
    several.add_argument(
        "--rendezvous",
        type=_address,
        metavar="HOST:PORT",
        help="where machines meet; a Slurm job finds its own",
    )
    parser.set_defaults(stage=None, run_id=uuid.uuid4().hex)
    parsers = parser.add_subparsers(metavar="STAGE")

    stage = _stage(parsers, "import-model", "bring a checkpoint in")
    stage.add_argument("--name", type=_name, required=True, help="its name in results/")
    _files(stage, "--out")
    _settings(stage)

    stage = _stage(parsers, "pretrain", "train a small model from nothing")
    stage.add_argument("--name", type=_name, required=True, help="its name in results/")
    _files(stage, "--out", "--state")
    _settings(stage)

    stage = _stage(parsers, "card", "describe a model that was trained here")
    _files(stage, "--model", "--tokens", "--out")
    _many(stage, "--records")

    stage = _stage(parsers, "tokenize", "split a corpus and tokenise it for a model")
    _files(stage, "--model", "--out")
    _settings(stage)

    stage = _stage(parsers, "derive", "derive factors from a closed form")
    stage.add_argument("method", help="pi, ntk, yarn, ...; with -on-tuned, on the tuned factors")
    stage.add_argument("--window", type=_window, required=True, help="such as 8k")
    _files(stage, "--model", "--out")

    stage = _stage(parsers, "search", "search factors for one window")
    _files(stage, "--model", "--tokens", "--out", "--trace", "--state")
    stage.add_argument("--recovery", action="store_true", help="a short window of a tuned model")
    stage.add_argument(
        "--warm", type=Path, nargs="?", help="factors of a shorter window to start from"
    )
    stage.add_argument("--plot", type=Path, help="draw factors and progress to this file")
    _settings(stage)

    stage = _stage(parsers, "finetune", "fine-tune with the factors of one window")
    _files(stage, "--model", "--factors", "--tokens", "--out", "--metrics", "--state")
    _settings(stage)

    stage = _stage(parsers, "assemble", "put the factors of all windows together")
    _files(stage, "--model", "--out")
    _many(stage, "--factors")

    stage = _stage(parsers, "export", "export an extended model for other tools")
    stage.add_argument("--form", choices=("native", "full", "gguf"), default="native",
        help="native: transformers' own longrope; full: all tiers, with a modelling file; gguf: for"
        " llama.cpp (native)")  # fmt: skip
    stage.add_argument("--engine", help="transformers (also right in vLLM and SGLang), vllm,"
        " sglang, mlx, llama.cpp, or any (transformers; for gguf llama.cpp)")  # fmt: skip
    stage.add_argument("--tier", type=_window, help="whose factors serve every length (longest)")
    stage.add_argument(
        "--two-tables", action="store_true", help="also those of the original window"
    )
    stage.add_argument("--dtype", choices=("float32", "float16", "bfloat16"),
        help="in which weights are stored (as they are)")  # fmt: skip
    stage.add_argument("--licence", help="of the base model, where nothing tells it; such as mit")
    stage.add_argument("--records", type=Path, nargs="*", default=[], help=HELP["--records"])
    stage.add_argument("--trainings", type=Path, nargs="*", default=[], help=HELP["--trainings"])
    _files(stage, "--model", "--factors", "--out")

    stage = _stage(parsers, "evaluate-perplexity", "perplexity of held-out documents")
    _files(stage, "--model", "--tokens", "--out", "--state")
    _many(stage, "--factors")
    _settings(stage)

    stage = _stage(parsers, "evaluate-passkey", "retrieval of passkeys")
    _files(stage, "--model", "--out", "--state")
    _many(stage, "--factors")
    _settings(stage)

    stage = _stage(parsers, "evaluate-benchmarks", "questions of lm-evaluation-harness")
    _files(stage, "--model", "--out", "--state")
    _many(stage, "--factors")
    _settings(stage)

    stage = _stage(parsers, "evaluate-ruler", "retrieval of RULER's needles")
    _files(stage, "--model", "--out", "--state", "--samples")
    _many(stage, "--factors")
    _settings(stage)

    stage = _stage(parsers, "tabulate", "one table of what was measured")
    stage.add_argument("table", help="table05, passkey, searches, ...")
    _files(stage, "--paper", "--out")
    _many(stage, "--records", "--traces", "--trainings")
    _settings(stage)

    stage = _stage(parsers, "summarise", "which claims of the method are borne out")
    _files(stage, "--out")
    _many(stage, "--records")
    _settings(stage)

    stage = _stage(parsers, "plot", "one figure of what was measured")
    stage.add_argument("figure", help="figure1, figure4, depths, ...")
    _files(stage, "--out")
    _many(stage, "--records")
    _settings(stage)

    stage = _stage(parsers, "import-factors", "read factors of other makers")
    origin = stage.add_mutually_exclusive_group(required=True)
    origin.add_argument("--csv", type=Path, help="a table as the paper's authors publish them")
    origin.add_argument("--checkpoint", type=Path, help="a checkpoint with a longrope block")
    stage.add_argument("--model", type=Path, help="the checkpoint that the csv is for")
    stage.add_argument("--window", type=_window, help="the window that the csv is for")
    stage.add_argument("--n-hat", type=int, default=0, help="which the csv does not say")
    stage.add_argument("--which", choices=("long", "short"), default="long", help="its list (long)")
    _files(stage, "--out")

    stage = _stage(parsers, "check", "audit any checkpoint: what is wrong with its RoPE, and where",
        tracked=False,
    )  # fmt: skip
    stage.add_argument("checkpoint", type=Path, help="a folder, a config.json or a GGUF file")
    stage.add_argument("--json", action="store_true", help="print the report as JSON")
    stage.add_argument(
        "--engine", nargs="+", default=[], help="only what concerns these: vllm, transformers-4, …"
    )

    stage = _stage(parsers, "evaluate-instructions", "does a model still do what it is told?")
    _files(stage, "--model", "--out")
    stage.add_argument("--factors", type=Path, metavar="PATH", help=HELP["--factors"])
    stage.add_argument("--at", type=_window, help="the factors of this length throughout")

    stage = _stage(parsers, "init", "write a configuration for a checkpoint", tracked=False)
    _own_model(stage)
    stage.add_argument("--out", type=Path, help="the YAML file (NAME.yaml)")

    stage = _stage(parsers, "extend", "init, the workflow and the export in one go", tracked=False)
    _own_model(stage)
    stage.add_argument("--out", type=Path, help="a folder for all results (NAME-WINDOW)")
    stage.add_argument("--cores", default="all", help="of the workflow (all)")
    stage.add_argument("--dry-run", action="store_true", help="only list the jobs")

    stage = _stage(parsers, "generate", "continue a prompt, or answer a question over a long file",
        tracked=False,
    )  # fmt: skip
    stage.add_argument("path", type=Path, help="results/MODEL/WEIGHTS, or a checkpoint")
    stage.add_argument("prompt", nargs="?", help="to continue, or to answer; - reads it from stdin")
    stage.add_argument("--factors", help="a file, or a published entry (extended/ of the path)")
    stage.add_argument("--other-weights", action="store_true", help="factors of another tuning")
    stage.add_argument("--file", type=Path, help="a long text instead of a prompt")
    stage.add_argument("--question", help="that is asked about the file")
    stage.add_argument("--new-tokens", type=int, default=200, help="at most so many (200)")
    stage.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token (0)")
    stage.add_argument("--seed", type=int, default=1, help="of the temperature (1)")
    stage.add_argument("--raw", action="store_true", help="without the tokenizer's chat template")

    stage = _stage(parsers, "factors", "list, print or write published factors", tracked=False)
    stage.add_argument("name", nargs="?", help="an entry; without it all are listed")
    stage.add_argument("--window", type=_window, help="of several (all, or the longest)")
    stage.add_argument("--out", type=Path, help="a folder, or a file for one window")
    stage.add_argument("--json", action="store_true", help="print factors.json")

    stage = _stage(parsers, "publish", "make an entry of published factors from results",
        tracked=False,
    )  # fmt: skip
    stage.add_argument("--name", required=True, help="of the entry")
    stage.add_argument("--about", required=True, help="one sentence for people")
    stage.add_argument("--command", required=True, help="that made the results")
    _files(stage, "--model")
    _many(stage, "--factors", "--records")
    stage.add_argument("--out", type=Path, help="a file; by default into the package")

    stage = _stage(parsers, "fetch-benchmarks", "get all that benchmarks need offline",
        tracked=False,
    )  # fmt: skip
    stage.add_argument("--questions", type=int, help="at most so many of each, evenly chosen")
    _files(stage, "--out")

    stage = _stage(parsers, "plan", "what a study will cost, before it is run", tracked=False)
    origin = stage.add_mutually_exclusive_group(required=True)
    origin.add_argument("--config", type=Path, help="a configuration file")
    origin.add_argument("--settings", metavar="JSON", help="the same as JSON")
    stage.add_argument("--gpu", required=True, help="a100-80gb, h100-80gb, ...; cpu: one core")
    stage.add_argument("--gpus", type=int, default=1, help="that one job may have (1)")
    stage.add_argument("--memory", type=float, help="GiB of one, if not what is known")
    stage.add_argument("--flops", type=float, help="FLOP/s of one, if not what is known")
    stage.add_argument("--utilisation", type=float, help="share of them that is reached")
    stage.add_argument("--target", default="all", help="all, or study (with the ablations)")
    stage.add_argument(
        "--simulate", type=_count, nargs="+", default=[], metavar="GPUS",
        help="when all would be done with so many GPUs, such as 1 8 64",
    )  # fmt: skip
    stage.add_argument("--efficiency", type=float, default=EFFICIENCY,
        help=f"share of a perfect speed-up that several GPUs reach ({EFFICIENCY:g})")  # fmt: skip
    stage.add_argument("--check", action="store_true", help="fail if a job does not fit")
    stage.add_argument("--out", type=Path, help="also write the plan to this file")

    stage = _stage(parsers, "sync", "put finished runs into MLflow", tracked=False)
    stage.add_argument("--records", type=Path, default=Path("logs"), help="where *.run.json are")
    stage.add_argument("--uri", help="tracking server; MLFLOW_TRACKING_URI, or ./mlflow.db")
    stage.add_argument("--experiment", default="longrope", help="in MLflow (longrope)")

    stage = _stage(parsers, "schema", "print the JSON schema of a configuration", tracked=False)
    stage.add_argument("--markdown", action="store_true", help="the same as a page for people")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def _name(text: str) -> str:
    from longrope.config.base import NAME

    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: a letter or digit, then letters, digits, dots, dashes and underscores"
        )
    return text


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT")
    return text


def _window(text: str) -> int:
    from longrope.windows import parse_window

    try:
        return parse_window(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _stage(parsers, name: str, help: str, tracked: bool = True) -> argparse.ArgumentParser:
    stage = parsers.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    verb = name.replace("-", "_")
    module = stages if hasattr(stages, verb) else use_stages
    stage.set_defaults(stage=name, run=getattr(module, verb), tracked=tracked)
    return stage


def _own_model(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("checkpoint", type=Path, help="a folder, or a GGUF file")
    stage.add_argument("--to", type=_window, required=True, help="the long window, such as 32k")
    stage.add_argument("--text", nargs="+", metavar="GLOB", help="your texts (the carried books)")
    stage.add_argument("--name", help="in results/ (that of the folder)")
    stage.add_argument("--gpu", default="cpu", help="a100-80gb, h100-80gb, ...; cpu: one core")
    stage.add_argument("--hours", type=float, default=12.0, help="that it may take, by plan (12)")
    stage.add_argument("--trial", action="store_true", help="the least of all: does it run?")
    stage.add_argument("--project", type=Path, help="the checkout, where it is not installed from")


def _files(stage: argparse.ArgumentParser, *flags: str) -> None:
    for flag in flags:
        stage.add_argument(flag, type=Path, required=True, metavar="PATH", help=HELP[flag])


def _many(stage: argparse.ArgumentParser, *flags: str) -> None:
    for flag in flags:
        stage.add_argument(
            flag, type=Path, nargs="*", required=True, metavar="PATH", help=HELP[flag]
        )


def _settings(stage: argparse.ArgumentParser) -> None:
    stage.add_argument(
        "--settings",
        required=True,
        metavar="JSON",
        help="this stage's slice of the configuration; @FILE reads it from a file",
    )


if __name__ == "__main__":
    sys.exit(main())
