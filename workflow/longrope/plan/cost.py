"""
What one pass of a model takes: FLOPs and bytes, as functions of its shape and the tokens.

The path is the one that the code takes (`losses.py`, `training.py`): attention without a mask in a
kernel that holds no scores and skips what is not causal, MLP, head and loss in pieces, no KV cache
but where tokens are generated. A multiplication with its addition is two FLOPs. Norms, rotation and
activation functions are left out: they cost time, which the utilisation covers, and few FLOPs.

Bytes are those of tensors; `width` is that of one number (2 bfloat16, 4 float32).
"""

from longrope.config.training import Lora
from longrope.memory import rows_of
from longrope.plan.architecture import Architecture

LOGIT = 14  # bytes: one in bfloat16 and float32, its soft maximum and its gradient
BACKWARD = 2.0  # of a matrix product: two more products
BACKWARD_FROZEN = 1.0  # and where the matrix does not train
BACKWARD_ATTENTION = 2.5  # five products for two, as scores are computed again
STATES = 16  # bytes a weight in training: float32 weight, gradient, and AdamW's two moments
STEPPING = 20  # and while AdamW steps, when activations are gone
CAST = 2  # bytes a weight: the copy that autocast keeps


def attention(shape: Architecture, tokens: int) -> float:
    """FLOPs of causal attention over a sequence: scores and values of half of all pairs."""
    return 2 * shape.layers * shape.heads * shape.head_size * tokens**2


def forward(shape: Architecture, tokens: int) -> float:
    """FLOPs of one sequence through body and head."""
    return 2 * (shape.body + shape.head) * tokens + attention(shape, tokens)


def generation(shape: Architecture, tokens: int, new: int) -> float:
    """FLOPs of a prompt, of whose tokens only the last needs the head, and of new tokens after."""
    prompt = 2 * shape.body * tokens + attention(shape, tokens)
    one = 2 * (shape.body + shape.head) + 2 * attention(shape, tokens) / max(tokens, 1)
    return prompt + new * one


def training(
    shape: Architecture,
    tokens: int,
    micro_batch: int = 1,
    *,
    recompute: bool,
    lora: Lora | None = None,
) -> float:
    """FLOPs of one sequence forward and backward.

    MLP and head are computed again where they do not fit in one piece; with `recompute`, which is
    activation checkpointing, so is the body. With LoRA the body's own matrices have no gradient;
    the changes are left out, being small.
    """
    held = micro_batch * tokens
    backward = BACKWARD_FROZEN if lora else BACKWARD
    body = 2 * shape.body * tokens * (1 + backward + recompute)
    mlp = 2 * shape.mlp * tokens * (held > rows_of(shape.intermediate))
    head = 2 * shape.head * tokens * (1 + BACKWARD + (held > rows_of(shape.vocabulary)))
    return body + mlp + head + attention(shape, tokens) * (1 + BACKWARD_ATTENTION + recompute)


def kv_cache(shape: Architecture, tokens: int, width: int) -> int:
    """Bytes of keys and values of a sequence."""
    return 2 * shape.layers * shape.kv_heads * shape.head_size * tokens * width


def passing(shape: Architecture, tokens: int, width: int) -> int:
    """Bytes that are alive at once where nothing is kept for a backward pass.

    The widest place is the rotation of queries or of keys: the embeddings, the residual and the
    normalised input, queries, keys and values, and what is being rotated three times more. Or, in
    short sequences, a piece of the MLP: three vectors of the intermediate size, beside four of the
    hidden one. Cos and sin are there, too.
    """
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    rotation = 3 * shape.hidden + max(4 * queries + 2 * keys, 2 * queries + 5 * keys)
    piece = min(tokens, rows_of(shape.intermediate))
    mlp = 4 * shape.hidden * tokens + 3 * shape.intermediate * piece
    return (max(rotation * tokens, mlp) + 2 * shape.head_size * tokens) * width


def logits(shape: Architecture, tokens: int) -> int:
    """Bytes of a piece of logits."""
    return LOGIT * shape.vocabulary * min(tokens, rows_of(shape.vocabulary))


def kept(shape: Architecture, tokens: int, width: int, *, recompute: bool) -> int:
    """Bytes kept for the backward pass: of every layer, or with `recompute` its input and one
    layer's."""
    keys = 2 * shape.kv_heads * shape.head_size
    queries = 2 * shape.heads * shape.head_size  # and what attention gives
    piece = min(tokens, rows_of(shape.intermediate))  # of an MLP in several, no more is kept
    mlp = 4 * shape.intermediate * piece
    layer = (6 * shape.hidden + queries + keys) * tokens
    if recompute:
        return (shape.layers * shape.hidden * tokens + layer + mlp) * width
    return (shape.layers * layer + (shape.layers if piece == tokens else 1) * mlp) * width


def inference_memory(shape: Architecture, tokens: int, width: int, cached: int = 0) -> int:
    """Bytes at the most while `tokens` tokens run at a time, `cached` of them with a cache."""
    weights = shape.parameters * width
    passing_ = max(passing(shape, tokens, width), logits(shape, tokens))  # one after the other
    return weights + passing_ + kv_cache(shape, cached, width)


def lora_weights(shape: Architecture, lora: Lora) -> tuple[int, int]:
    """How many weights train with LoRA: of the changes, and of the model itself."""
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    ends = 4 * shape.hidden + 2 * queries + 2 * keys  # rows and columns of four matrices
    whole = shape.norms * ("norms" in lora.train) + shape.head * ("embeddings" in lora.train)
    return shape.layers * lora.rank * ends, whole


def training_memory(
    shape: Architecture, tokens: int, width: int, *, recompute: bool, lora: Lora | None = None
) -> int:
    """Bytes at the most of a training step with `tokens` tokens held at a time."""
    cast, trained, frozen = CAST if width == 2 else 0, shape.parameters, 0
    if lora:  # the body's matrices are held in the type that they run in
        changes, whole = lora_weights(shape, lora)
        trained = changes + whole
        frozen = width * shape.body + (4 + cast) * (shape.parameters - shape.body - whole)
    held = kept(shape, tokens, width, recompute=recompute) + logits(shape, tokens)
    return frozen + max((STATES + cast) * trained + held, STEPPING * trained)
