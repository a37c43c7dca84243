"""
GGUF files: what their metadata say of the RoPE, and the tensors of factors.

llama.cpp knows three of those, float32, one number a pair: `rope_freqs.weight` is in force at every
length; of `rope_factors_long.weight` and `rope_factors_short.weight` it takes one by whether the
context that is allocated exceeds the original window. What is not there is 1, silently.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from longrope.audit.checkpoint import NO_ROPE, PLAIN, THETA
from longrope.audit.finding import LLAMA_CPP, Finding, Report, among
from longrope.audit.surroundings import OLLAMA
from longrope.audit.values import BASE, COUNT, NOT_BELOW, TOKENS, WORD, Rule, is_number, judge
from longrope.audit.windows import TURNS, turns_of
from longrope.errors import UserError, one_line

FREQS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
TABLES = (FREQS, LONG, SHORT)
RULES: dict[str, Rule] = {
    "context_length": TOKENS, "rope.scaling.original_context_length": TOKENS,
    "embedding_length": COUNT, "attention.key_length": COUNT, "attention.head_count": COUNT,
    "rope.dimension_count": COUNT, "rope.scaling.factor": NOT_BELOW,
    "rope.freq_base": BASE, "rope.scaling.type": WORD,
}  # fmt: skip
PER_LAYER = ("attention.key_length", "attention.head_count", "rope.dimension_count")
WRONG = "refuses to load, or computes with nonsense"


def check_gguf(path: Path) -> Report:
    """Everything that was found in a GGUF file."""
    reader = open_gguf(path)
    if "general.architecture" not in reader.fields:
        raise UserError(f"{path}: names no architecture (general.architecture): no model")
    kind = reader.fields["general.architecture"].contents()
    values = {
        name.removeprefix(f"{kind}."): each.contents()
        for name, each in reader.fields.items()
        if name.startswith(f"{kind}.")
    }
    wrong = [
        found
        for key, rule in RULES.items()
        for each in _each(key, values.get(key))
        for found in judge(path.name, f"{kind}.{key}", each, rule, among(WRONG, LLAMA_CPP))
    ]
    for each in wrong:
        values.pop(each.key.removeprefix(f"{kind}."), None)
    tables = {each.name: each.data.tolist() for each in reader.tensors if each.name in TABLES}
    facts = {
        "model": kind,
        "window": values.get("context_length"),
        "theta": f"{values.get('rope.freq_base', THETA):g}",
        "pairs": _pairs(values),
        "scaling": _scaling(values, tables),
        "tables": ", ".join(sorted(tables)) or "none",
    }
    if kind in NO_ROPE:
        facts = {"model": kind, "window": values.get("context_length"), "RoPE": "none"}
        facts |= {"scaling": "none", "tables": "none"}
        return Report(str(path), facts, tuple(wrong))
    findings = [*wrong, *_tables(path.name, values, tables)]
    if not wrong:  # else what was taken out would count as not said
        findings += _metadata(path.name, values, tables)
    note = f"Ollama serves {OLLAMA} of it at most unless num_ctx is set"
    return Report(str(path), facts, tuple(findings), (note,) * (_window(values) > OLLAMA))


def open_gguf(path: Path):
    """The package gguf's reader of a file; UserError if it cannot be read."""
    try:
        import gguf
    except ImportError:
        raise UserError(f"{path}: reading GGUF takes the package gguf: pip install gguf") from None
    if not path.is_file():
        raise UserError(f"{path}: no such GGUF file")
    try:
        return gguf.GGUFReader(path)
    # The reader goes from number to number of the file, and errs wherever one is wrong.
    except Exception as error:
        raise UserError(
            f"{path}: not a readable GGUF file ({one_line(error)}); download or convert it again"
        ) from None


def _window(values: dict) -> int:
    return values.get("context_length") or 0


def _pairs(values: dict) -> int | None:
    """How many pairs turn, as llama.cpp takes it."""
    size = values.get("rope.dimension_count", values.get("attention.key_length"))
    heads, width = values.get("attention.head_count"), values.get("embedding_length")
    if size is None and heads and width:
        size = width // (max(heads) if isinstance(heads, list) else heads)
    if isinstance(size, list):  # one number a layer: several pairs have no one number
        size = size[0] if len(set(size)) == 1 else None
    return size // 2 if size else None


def _scaling(values: dict, tables: dict) -> str:
    """The type that is stated; where there is none, tensors of factors rescale all the same."""
    type_, factor = values.get("rope.scaling.type", "none"), values.get("rope.scaling.attn_factor")
    if type_ not in PLAIN or not tables:
        return type_
    by = "a table" if len(tables) == 1 else "tables"
    factor = factor if is_number(factor) else 1
    return f"by {by} ({', '.join(sorted(tables))}), attention factor {factor:g}"


def _each(key: str, value: object) -> list:
    """The values of a key to be judged: of some there is one a layer; 0 heads: it attends to
    nothing."""
    if value is None:
        return []
    return (
        [one for one in value if one] if key in PER_LAYER and isinstance(value, list) else [value]
    )


def _tables(file: str, values: dict, tables: dict[str, list[float]]) -> Iterator[Finding]:
    for name, numbers in tables.items():
        if _pairs(values) and len(numbers) != _pairs(values):
            yield _finding(
                "table-length", file, name,
                f"{len(numbers)} factors; {_pairs(values)} pairs turn.", "refuses to load",
                f"{_pairs(values)} factors, float32",
            )  # fmt: skip
        if any(not (math.isfinite(each) and each > 0) for each in numbers):
            yield _finding(
                "table-values", file, name, "factors that are not above 0.",
                "infinite or backward angles, silently", "numbers of 1 and more",
            )  # fmt: skip
        elif 2 * sum(each < 0.99 for each in numbers) > len(numbers):
            yield _finding(
                "table-below-one", file, name,
                f"most factors are below 1 (least {min(numbers):g}): these look like reciprocals.",
                "turns faster than in pre-training, silently", "what a frequency is divided by",
            )  # fmt: skip
    one = {LONG, SHORT} & tables.keys()
    if len(one) == 1:
        (missing,) = {LONG, SHORT} - one
        yield _finding(
            "table-missing", file, missing, f"{next(iter(one))} is there, {missing} is not.",
            "takes 1 for it, silently", "both tensors; one table for all lengths is rope_freqs",
        )  # fmt: skip
    if one and FREQS in tables:
        yield _finding(
            "tables-both", file, FREQS, "rope_freqs beside long and short factors.",
            "takes rope_freqs, and never the others, silently", "one kind of table",
        )  # fmt: skip


def _metadata(file: str, values: dict, tables: dict) -> Iterator[Finding]:
    scaling, window = values.get("rope.scaling.type", "none"), values.get("context_length")
    original = values.get("rope.scaling.original_context_length")
    factor, theta = values.get("rope.scaling.factor"), values.get("rope.freq_base")
    two = {LONG, SHORT} & tables.keys()
    if scaling == "longrope" and not tables:
        yield _finding(
            "factors-lost", file, "rope.scaling.type",
            "the type is longrope and no tensor of factors is there.",
            "runs with the RoPE of the pre-training, silently",
            f"the tensors {LONG} and {SHORT}, which converters drop for some architectures",
        )  # fmt: skip
    if two and original is None:
        yield _finding(
            "original-window-missing", file, "rope.scaling.original_context_length",
            "long and short factors without the window before rescaling.",
            f"takes context_length ({window}) for it: the long factors are never used, silently",
            "the window of the pre-training",
        )  # fmt: skip
    rescaled = two or scaling in ("yarn", "longrope")
    if rescaled and original is not None and window is not None and window <= original:
        yield _finding(
            "window-not-raised", file, "context_length",
            f"context_length is {window}, not above the original window {original}.",
            "serves no more than that by default", "the window after rescaling",
        )  # fmt: skip
    if two and "rope.scaling.attn_factor" not in values:
        yield _finding(
            "attention-factor-missing", file, "rope.scaling.attn_factor",
            "no attention scaling beside long and short factors.",
            "applies 1, where other engines apply sqrt(1 + ln s / ln L), silently",
            "the factor that the weights were tuned with, 1.0 if there was none", "warning",
        )  # fmt: skip
    if scaling in ("linear", "yarn") and not factor:
        yield _finding(
            "factor-missing", file, "rope.scaling.factor", f"{scaling} has no factor.",
            "does not scale at all, silently", "the number of times that the window grew",
        )  # fmt: skip
    elif factor and scaling == "none":
        yield _finding(
            "type-missing", file, "rope.scaling.type", f"a factor ({factor:g}) without a type.",
            "takes linear for it, or nothing, by its version", "linear, yarn or longrope",
            "warning",
        )  # fmt: skip
    if theta is None:
        yield _finding(
            "theta-missing", file, "rope.freq_base", "theta is not stated.", "takes 10000",
            "the theta of the pre-training", "warning",
        )  # fmt: skip
    turns = turns_of(window or 0, theta or THETA)
    sliding = values.get("attention.sliding_window")
    if scaling in ("none", "longrope") and not tables and not sliding and turns > TURNS:
        yield _finding(
            "scaling-lost", file, "rope.scaling.type",
            f"a window of {window} at theta {theta or THETA:g} without any scaling: the"
            f" middle pair turns {turns:.0f} times in it, at most 21 where models were trained so.",
            "runs with the RoPE of the pre-training, silently",
            "the scaling of the checkpoint that was converted",
            "error" if turns > 2 * TURNS else "warning",
        )  # fmt: skip


def _finding(
    code: str, file: str, key: str, problem: str, silent: str, instead: str, severity="error"
) -> Finding:
    return Finding(code, severity, file, key, problem, among(silent, LLAMA_CPP), instead)
