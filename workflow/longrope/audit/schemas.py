"""
The two schemas of a RoPE: whether both are there, say the same, and name a type that exists.
"""

import difflib
from collections.abc import Iterator, Sequence

from longrope.audit.checkpoint import (
    CONFIG,
    LONGROPE,
    ORIGINAL,
    PLAIN,
    Block,
    Checkpoint,
)
from longrope.audit.finding import (
    LLAMA_CPP,
    MLX,
    SGLANG,
    T4,
    T5,
    VLLM,
    Finding,
    among,
    everywhere,
)
from longrope.audit.values import OF_CONFIG, THETAS, WINDOW, shown

TYPES = (  # that transformers knows
    "default", "linear", "dynamic", "yarn", "longrope", "llama3", "mrope", "proportional", "axial",
)  # fmt: skip
OLD_NAME = (
    "phi3",
    "phi3small",
    "phimoe",
    "minicpm",
    "minicpm3",
)  # model_types whose code still reads `su`
KNOWN = (  # keys of a block that some engine reads
    "rope_type", "type", "rope_theta", "factor", ORIGINAL, "attention_factor", "short_factor",
    "long_factor", "short_mscale", "long_mscale", "beta_fast", "beta_slow", "mscale",
    "mscale_all_dim", "low_freq_factor", "high_freq_factor", "partial_rotary_factor",
    "mrope_section", "attn_factor", "truncate", "alpha", "finetuned",
)  # fmt: skip
# Of a block that rescales nothing.
PLAIN_KEYS = ("rope_type", "rope_theta", "partial_rotary_factor")
TOP_KEYS = (  # what decides a RoPE at the top level
    "rope_theta", "rope_scaling", "rope_parameters", WINDOW, ORIGINAL, "partial_rotary_factor",
)  # fmt: skip
SAME = ("factor", "short_factor", "long_factor", "attention_factor", "low_freq_factor",
        "high_freq_factor", "beta_fast", "beta_slow")  # fmt: skip


def check_schemas(checkpoint: Checkpoint) -> Iterator[Finding]:
    """What is wrong with how the RoPE is written down."""
    yield from _objects(checkpoint)
    if not checkpoint.wrong:  # else what was taken out would count as not said
        yield from _theta(checkpoint)
        yield from _both(checkpoint)
    own = "auto_map" in checkpoint.config  # a modelling file, which may read what nobody else does
    stated = {key: value for key, value in checkpoint.config.items() if value is not None}
    yield from _spelling("", stated, (*TOP_KEYS, *OF_CONFIG, *THETAS), TOP_KEYS, own)
    for block in checkpoint.blocks:
        yield from _type(checkpoint, block)
        wanted = KNOWN if block.rescales else PLAIN_KEYS
        yield from _spelling(f"{block.key}.", block.values, KNOWN, wanted, own)


def _objects(checkpoint: Checkpoint) -> Iterator[Finding]:
    for key in ("rope_scaling", "rope_parameters"):
        value = checkpoint.config.get(key)
        if value is not None and not isinstance(value, dict):
            yield Finding(
                "block-not-an-object", "error", CONFIG, key, f"{key} is {shown(value)}.",
                everywhere("cannot be loaded, or scales nothing"),
                'an object such as {"rope_type": "yarn", "factor": 4.0, …}, or null',
            )  # fmt: skip


def _theta(checkpoint: Checkpoint) -> Iterator[Finding]:
    top = checkpoint.top_theta
    inside = {
        block.key: block.values["rope_theta"]
        for block in (checkpoint.modern, checkpoint.legacy)
        if block and block.values.get("rope_theta") is not None
    }
    several = checkpoint.modern is not None and "." in checkpoint.modern.key
    if several:  # layers of one model that turn by different thetas: only the newer schema can
        return
    value = next(iter(inside.values()), None)
    if top is None and value not in (None, checkpoint.default_theta):
        fallback = f"turns by theta {checkpoint.default_theta:g} instead of {value:g}, silently"
        yield Finding(
            "theta-only-in-block", "error", CONFIG, "rope_theta",
            f"theta {value:g} stands only in {next(iter(inside))}, as transformers 5 saves it.",
            among(fallback, T4) | {VLLM: f"on transformers 4: {fallback}",
                                   MLX: f"versions before that schema: {fallback}"},
            f'"rope_theta": {value} at the top level as well',
        )  # fmt: skip
    for key, value in inside.items():
        if top is not None and value != top:
            yield Finding(
                "theta-differs", "error", CONFIG, f"rope_theta, {key}.rope_theta",
                f"theta is {top:g} at the top level and {value:g} in {key}.",
                among(f"turns by {top:g}", T4, LLAMA_CPP) | {T5: f"turns by {value:g}"},
                "the theta of the pre-training in both places",
            )  # fmt: skip


def _both(checkpoint: Checkpoint) -> Iterator[Finding]:
    legacy, modern = checkpoint.legacy, checkpoint.modern
    if modern and not legacy and "." not in modern.key and modern.rescales:
        yield Finding(
            "scaling-only-in-rope_parameters", "error", CONFIG, "rope_scaling",
            f"{modern.type} stands only in rope_parameters, as transformers 5 saves it.",
            {T4: "does not scale at all, silently",
             VLLM: "on transformers 4: does not scale at all, silently",
             MLX: "versions before that schema do not scale at all, silently"},
            "the same block as rope_scaling beside it, with top-level rope_theta and"
            f" {ORIGINAL}",
        )  # fmt: skip
    if not (legacy and modern) or "." in modern.key:
        return
    ours, theirs = legacy.type, modern.type
    same_type = ours == theirs or {ours, theirs} <= {*LONGROPE} or {ours, theirs} <= {*PLAIN, None}
    differing = [key for key in SAME if legacy.values.get(key) != modern.values.get(key)]
    if not same_type or differing:
        what = f"rope_type {ours!r} and {theirs!r}" if not same_type else ", ".join(differing)
        yield Finding(
            "schemas-differ", "error", CONFIG, "rope_scaling, rope_parameters",
            f"the two blocks say different things: {what}.",
            among("takes rope_scaling, and nothing of rope_parameters", T4, T5)
            | among("takes either, by its version", VLLM, SGLANG, MLX),
            "the same block twice, or one of them",
        )  # fmt: skip


def _type(checkpoint: Checkpoint, block: Block) -> Iterator[Finding]:
    values, type_ = block.values, block.type
    new, old = values.get("rope_type"), values.get("type")
    if new and old and new != old and (old, new) not in (("su", "longrope"), ("mrope", "default")):
        yield Finding(
            "types-differ", "error", CONFIG, f"{block.key}.rope_type, {block.key}.type",
            f"rope_type is {new!r} and type {old!r}.",
            {T4: f"takes {old!r}", T5: f"takes {new!r}", VLLM: "refuses to load"},
            "one of them, or the same in both",
        )  # fmt: skip
    scaled = {"factor", "short_factor", "long_factor", "attention_factor"} & {*values}
    if type_ is None and scaled:
        yield Finding(
            "type-missing", "error", CONFIG, f"{block.key}.rope_type",
            f"{', '.join(sorted(scaled))} without a rope_type that says what to do with it.",
            {T5: "does not scale at all, silently", T4: "refuses to load", VLLM: "refuses to load"},
            "rope_type: linear, dynamic, yarn, longrope or llama3",
        )  # fmt: skip
    if type_ in PLAIN and scaled - {"attention_factor"}:
        yield Finding(
            "type-default", "error", CONFIG, f"{block.key}.rope_type",
            f"rope_type is {type_!r}, so {', '.join(sorted(scaled))} is not read.",
            everywhere("does not scale at all, silently"),
            "the rope_type that the factors are for",
        )  # fmt: skip
    if type_ == "su" and checkpoint.kind not in OLD_NAME:
        yield Finding(
            "type-su", "error", CONFIG, f"{block.key}.type",
            f"'su' is the old name of longrope, which {checkpoint.kind!r} does not know.",
            among("refuses to load", T4, T5) | {SGLANG: "refuses to load, by its version"},
            '"rope_type": "longrope", and the same as "type"',
        )  # fmt: skip
    elif type_ is not None and type_ not in (*TYPES, "su", "none"):
        near = difflib.get_close_matches(str(type_), TYPES, n=1)
        yield Finding(
            "type-unknown", "error", CONFIG, f"{block.key}.rope_type",
            f"{type_!r} is no rope_type of transformers."
            + (f" Is {near[0]!r} meant?" if near else ""),
            among("refuses to load, unless the model's own code knows it", T4, T5, VLLM, SGLANG)
            | among("does not scale at all, silently", LLAMA_CPP),
            f"one of {', '.join(TYPES[1:6])}",
        )  # fmt: skip


def _spelling(
    place: str, stated: dict, known: Sequence[str], wanted: Sequence[str], own: bool
) -> Iterator[Finding]:
    """Keys that are almost one of `wanted`, which is not stated itself."""
    for key in stated:
        near = difflib.get_close_matches(key, wanted, n=1, cutoff=0.8) if key not in known else []
        if near and near[0] not in stated:
            reader = "the model's own code apart, no engine" if own else "no engine"
            yield Finding(
                "key-misspelt", "warning" if own else "error", CONFIG, f"{place}{key}",
                f"{reader} reads {key!r}: {near[0]!r} is probably meant.",
                everywhere("takes its default for what was meant, silently"),
                near[0],
            )  # fmt: skip
