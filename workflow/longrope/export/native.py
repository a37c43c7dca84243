"""
The config.json of an export: transformers' own longrope, in the old and in the new schema.

transformers 5 reads `rope_parameters`, 4.57 `rope_scaling`, `rope_theta` and
`original_max_position_embeddings` at the top level; without one of the last two it silently takes
theta 10000, or the short list always. All are written. vLLM and SGLang ignore `attention_factor`
and read `short_mscale` and `long_mscale`; MLX reads none of the three.
"""

from longrope.export.engines import Engine
from longrope.export.tables import Tables, as_list
from longrope.factors import RescaleFactors, Rope
from longrope.models.architectures import rope_block

STRICT = ("phi3",)  # whose rope_scaling may hold a type and two lists, and nothing else
OLD_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
NOT_IN_4 = ("olmo", "olmo2")  # whose config class of transformers 4.57 refuses longrope, loudly
FOR_VLLM = ("short_mscale", "long_mscale")  # and SGLang: keys that transformers does not know
REPLACED = ("rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings")
OF_CODE = ("auto_map", "custom_pipelines")  # what names modules of the base's own, not exported


def goes_to_weights(config: dict, engine: Engine, tables: Tables) -> bool:
    """Whether an attention factor must be put into the weights, as no key can carry it."""
    factors = {tables.short.attention_factor, tables.long.attention_factor}
    keyless = engine.attention == "weights" or config.get("model_type") in STRICT
    return factors != {1.0} and keyless


def native_config(config: dict, tables: Tables, *, in_weights: bool, dtype: str) -> dict:
    """A config.json whose RoPE is rescaled by one or two tables; `in_weights`: their attention
    factor is in the weights already, which are stored as `dtype`."""
    rope, window = tables.tiers.rope, tables.window
    share = rope_block(config).get("partial_rotary_factor", config.get("partial_rotary_factor"))
    block = {
        "rope_type": "longrope",
        "short_factor": as_list(tables.short),
        "long_factor": as_list(tables.long),
        "factor": window / tables.original,
        "original_max_position_embeddings": tables.original,
        "attention_factor": 1.0 if in_weights else float(tables.long.attention_factor),
    }
    # Two tables leave a ratio of windows, from which some engines would make a factor of their own.
    if not in_weights and (tables.long.attention_factor != 1 or not tables.one):
        scales = (tables.short.attention_factor, tables.long.attention_factor)
        block |= zip(FOR_VLLM, map(float, scales), strict=True)
    own = {"rope_theta": rope.theta} | ({"partial_rotary_factor": share} if share else {})
    kind = config.get("model_type")
    legacy = block
    if kind in STRICT:
        block.pop("factor")  # its class computes it
        if tables.one:  # so is this: 1, at a ratio of 1
            block.pop("attention_factor")
        legacy = {key: block[key] for key in ("short_factor", "long_factor")} | {"type": "longrope"}
    names = OLD_NAMES.get(kind, {})
    return (
        {key: value for key, value in config.items() if key not in (*REPLACED, *OF_CODE)}
        | _architectures(config)
        | own
        | {names[key]: value for key, value in own.items() if key in names}
        | {
            "max_position_embeddings": window,
            "original_max_position_embeddings": tables.original,
            "rope_parameters": block | own,
            "rope_scaling": legacy,
        }
        | {"dtype": dtype, "torch_dtype": dtype}  # older engines read the second
    )


def _architectures(config: dict) -> dict[str, list[str]]:
    """The class that computes the model, which engines go by: transformers' own of the family,
    whatever the checkpoint's code called its."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    kind = config.get("model_type")
    return {"architectures": [NAMES[kind]]} if kind in NAMES else {}


def inverse_frequencies(factors: RescaleFactors, rope: Rope) -> list[float]:
    """What a reader must come to: 1 / (lambda_i theta^(2i/d))."""
    return [
        rope.theta ** (-2 * pair / rope.rotary_dim) / value
        for pair, value in enumerate(as_list(factors))
    ]
