"""
What differs between architectures: where a model keeps its body, how its config.json describes its
RoPE, and what cannot be extended or measured here, with the reason.

A causal language model of transformers is a body (`base_model`, with the rotary embedding at
`rotary_emb`) and a head (`get_output_embeddings`); losses run the two apart, so whatever a model
does to its logits after the head is refused. docs/architectures.md lists what is tested.
"""

import importlib.util
from pathlib import Path

from longrope.errors import UserError, one_line
from longrope.factors import Rope
from longrope.files import read_json

UNKNOWN = "unknown"  # a fingerprint that is not known yet
PLAIN = "default"  # the rope_type of a RoPE that nothing rescales
BY_LENGTH = ("dynamic", "longrope")  # whose frequencies transformers chooses at every forward call
COUNTS = (  # keys of config.json that count something
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "vocab_size",
)
STORED = ("float32", "float16", "bfloat16", "float64")  # types of weights
AFTER_HEAD = (  # keys of config.json that change what is between the head and the loss
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
    "lm_head_multiplier",
)
PACKAGES = {  # kernel of attention -> module and package that have it
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}


def body_of(model):
    """The part of a causal language model below its head, whose `rotary_emb` turns its heads."""
    return model.base_model


def attention_projections(model) -> list[str]:
    """The names of the linear maps in the attention of every layer: q_proj, or query_key_value."""
    from torch.nn import Linear

    found = [
        f"{name}.{part}"
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Attention")
        for part, inner in module.named_modules()
        if isinstance(inner, Linear)
    ]
    if not found:
        raise UserError(
            f"{type(model).__name__} has no attention with linear maps to train by LoRA"
        )
    return found


def norms(model) -> list:
    """Its normalisations that have a weight."""
    return [
        module
        for module in model.modules()
        if type(module).__name__.endswith("Norm") and getattr(module, "weight", None) is not None
    ]


def rope_block(config: dict):
    """What a config.json says of its RoPE, in transformers' old or new schema."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def rope_type_of(config: dict) -> str:
    """`default`, `linear`, `yarn`, ...: what a config.json does to its RoPE."""
    block = rope_block(config)
    return block.get("rope_type", block.get("type", PLAIN))


def complete_config(folder: Path) -> dict:
    """A checkpoint's config.json with what transformers fills in, such as LLaMA's theta."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    raw = read_json(Path(folder) / "config.json")
    if not isinstance(raw.get("model_type"), str):
        raise UserError(
            f"the config.json of the checkpoint: model_type = {raw.get('model_type')!r}: must name"
            " its architecture, such as llama; take the whole file of the checkpoint"
        )
    stored = raw.get("dtype", raw.get("torch_dtype"))
    if stored not in (None, *STORED):
        raise UserError(
            f"the config.json of the checkpoint: dtype = {stored!r}: weights are stored as one of"
            f" {', '.join(STORED)}"
        )
    if "text_config" not in raw:
        _check_counts(raw, raw.get("model_type", "unknown"))
    try:
        return raw | AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    except UserError:
        raise
    # What transformers makes of a value that it cannot use is an error of any kind.
    except (
        ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError,
        StrictDataclassError,
    ) as error:  # fmt: skip
        raise UserError(
            f"the config.json of the checkpoint: transformers cannot use it ({one_line(error)})"
        ) from error


def _check_counts(config: dict, name: str) -> None:
    """Raise UserError for a key of a config.json that counts nothing."""
    for key in COUNTS:
        value = config.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"model {name!r}: {key} = {value!r} in its config.json: must be a whole number, 1"
                " or more"
            )


def rope_of_config(config: dict, name: str, fingerprint: str = UNKNOWN) -> Rope:
    """The RoPE of a Hugging Face config.json before anything rescales it.

    Raises UserError if the model has none, or several.
    """
    kind = config.get("model_type", "unknown")
    if "text_config" in config:
        raise UserError(
            f"model {name!r} ({kind}) wraps a language model in a larger one: save its text model"
            " alone, with its own config.json"
        )
    block = rope_block(config)
    if not isinstance(block, dict):
        raise UserError(f"model {name!r}: rope_parameters = {block!r} must be an object")
    if "attention_chunk_size" in config or any(isinstance(value, dict) for value in block.values()):
        raise UserError(f"model {name!r} ({kind}) has several RoPEs by layer: not supported")
    theta = block.get("rope_theta", config.get("rope_theta"))
    if theta is None:
        raise UserError(
            f"model {name!r} ({kind}) has no rotary position embedding: its config.json has no"
            " rope_theta. LongRoPE extends RoPE models such as Llama, Mistral, Qwen or Phi"
        )
    _check_counts(config, name)
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    share = block.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    for key, value in {
        "rope_theta": theta, "head_dim": head, "partial_rotary_factor": share,
    }.items():  # fmt: skip
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e300:
            raise UserError(
                f"model {name!r}: {key} = {value!r} in its config.json: must be a number above 0"
            )
    return Rope(
        model=name,
        theta=float(theta),
        rotary_dim=int(head * share),
        original_window=config["max_position_embeddings"],
        fingerprint=fingerprint,
    )


def check_head(config: dict, name: str) -> None:
    """Raise UserError if a config.json says that logits are changed after the head."""
    for key in AFTER_HEAD:
        if config.get(key) not in (None, 1):
            raise UserError(
                f"model {name!r} ({config.get('model_type', 'unknown')}) changes its logits after"
                f" the head ({key} = {config[key]}), which losses here do not: not supported"
            )


def check_kernel(kernel: str, device: str, precision: str | None) -> None:
    """Raise UserError if a kernel of attention cannot run here.

    `device` is `cpu` or `cuda`; `precision` None that of autocast, which lowers it.
    """
    if kernel not in PACKAGES:
        return
    module, package = PACKAGES[kernel]
    problem = None
    if importlib.util.find_spec(module) is None:
        problem = f"the package {package} is not installed"
    elif device != "cuda":
        problem = "there is no GPU here"
    elif precision == "float32":
        problem = "it has no float32 (set source.precision to bfloat16)"
    if problem:
        raise UserError(
            f"attention: {kernel} cannot run, {problem}: mend that, or leave `attention` out of the"
            " model's source and import it again (torch's own sdpa runs everywhere)"
        )
