"""
What one pass of a model takes: FLOPs and bytes, as functions of its shape and the tokens.

The path is the one that the code takes (`losses.py`, `training/`): attention without a mask in a
kernel that holds no scores and skips what is not causal, MLP, head and loss in pieces, no KV cache
but where tokens are generated. A multiplication with its addition is two FLOPs. Norms, rotation and
activation functions are left out: they cost time, which the utilisation covers, and few FLOPs.

Bytes are those of tensors; `width` is that of one number (2 bfloat16, 4 float32), in training that
of what matrices take and make: 2 is autocast.
"""

from dataclasses import dataclass

from longrope.config.training import Lora
from longrope.plan.architecture import Architecture
from longrope.portions import rows_of

LOGIT = 14  # bytes: one in bfloat16 and float32, its soft maximum and its gradient
BACKWARD = 2.0  # of a matrix product: two more products
BACKWARD_FROZEN = 1.0  # and where the matrix does not train
BACKWARD_ATTENTION = 2.5  # five products for two, as scores are computed again
STATES = 16  # bytes a weight in training: float32 weight, gradient, and AdamW's two moments
STEPPING = 20  # and while AdamW steps, when activations are gone
CAST = 2  # bytes a weight: the copy that autocast keeps


@dataclass(frozen=True, slots=True)
class Flops:
    """Multiplications and additions: with weights, and of attention, whose kernel has a rate of its
    own."""

    matrices: float = 0.0
    attention: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.matrices + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.matrices + other.matrices, self.attention + other.attention)

    def __mul__(self, times: float) -> "Flops":
        return Flops(self.matrices * times, self.attention * times)


def attention(shape: Architecture, tokens: int) -> float:
    """FLOPs of causal attention over a sequence: scores and values of half of all pairs."""
    return 2 * shape.layers * shape.heads * shape.head_size * tokens**2


def forward(shape: Architecture, tokens: int) -> Flops:
    """FLOPs of one sequence through body and head."""
    return Flops(2 * (shape.body + shape.head) * tokens, attention(shape, tokens))


def read_off(shape: Architecture, tokens: int) -> Flops:
    """FLOPs of one sequence, of whose tokens only some of the last need the head."""
    return Flops(2 * shape.body * tokens, attention(shape, tokens))


def generation(shape: Architecture, tokens: int, new: int) -> Flops:
    """FLOPs of a prompt, and of new tokens after it."""
    one = Flops(2 * (shape.body + shape.head), 2 * attention(shape, tokens) / max(tokens, 1))
    return read_off(shape, tokens) + one * new


def training(
    shape: Architecture,
    tokens: int,
    micro_batch: int = 1,
    *,
    recompute: bool,
    lora: Lora | None = None,
) -> Flops:
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
    passes = 1 + BACKWARD_ATTENTION + recompute
    return Flops(body + mlp + head, attention(shape, tokens) * passes)


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


def kept_of_layer(
    shape: Architecture, tokens: int, width: int, lora: Lora | None = None
) -> tuple[int, int]:
    """Bytes that a layer keeps for its backward pass: beside its MLP's pieces, and of one piece.

    Under autocast (width 2) what passes from layer to layer, and with it what norms take, stays
    float32, and each matrix makes a bfloat16 copy of its input of its own. A norm keeps what it
    takes and, if it runs whole and its weights train, what it normalised; a matrix its input if
    it trains, or its change of low rank does; an MLP in several pieces what it takes.
    """
    hidden, queries = shape.hidden, shape.heads * shape.head_size
    keys, autocast = shape.kv_heads * shape.head_size, width == 2
    in_pieces = tokens > rows_of(shape.intermediate)
    normalised = tokens <= rows_of(hidden) and (lora is None or "norms" in lora.train)
    residual = (2 + 2 * normalised) * hidden * 4  # of two norms
    projected = 3 * hidden * 2 if autocast else hidden * 4  # into queries, keys and values
    if in_pieces:
        into_mlp = hidden * 4
    else:
        into_mlp = 0 if lora else 2 * hidden * 2 if autocast else hidden * 4
    attention = (2 * queries + 2 * keys) * width + 4 * shape.heads  # its results, sums of softmax
    if lora:  # what the rank makes of four inputs; autocast copies the fourth, too
        attention += (4 * lora.rank + autocast * queries) * width
    mlp = (3 if lora else 4) * shape.intermediate * width
    piece = min(tokens, rows_of(shape.intermediate))
    return (residual + projected + into_mlp + attention) * tokens, mlp * piece


def kept(
    shape: Architecture, tokens: int, width: int, *, recompute: bool, lora: Lora | None = None
) -> int:
    """Bytes kept for the backward pass: of every layer, or with `recompute` its input alone."""
    if recompute:
        return shape.layers * shape.hidden * tokens * 4
    layer, mlp = kept_of_layer(shape, tokens, width, lora)
    return shape.layers * (layer + (mlp if tokens <= rows_of(shape.intermediate) else 0))


def passing_gradients(
    shape: Architecture, tokens: int, width: int, *, recompute: bool, lora: Lora | None = None
) -> int:
    """Bytes beside `kept` where a training step holds the most: at its loss, or in the backward
    pass of one layer's MLP or attention, with all that `recompute` makes of the layer again."""
    hidden, queries = shape.hidden, shape.heads * shape.head_size
    keys, whole = shape.kv_heads * shape.head_size, tokens <= rows_of(shape.hidden)
    loss = (3 + whole) * hidden * 4 * tokens + logits(shape, tokens)  # the last norm, a gradient
    rotation = 8 * queries + 2 * keys if width == 2 else 4 * (queries + keys)  # of gradients
    attention = (rotation + (hidden * 4 if lora else 0)) * tokens
    layer, mlp = kept_of_layer(shape, tokens, width, lora)
    piece = 6 * shape.intermediate * width * min(tokens, rows_of(shape.intermediate))
    if recompute:
        backward = layer + max(attention, piece)
    else:
        known = mlp if tokens <= rows_of(shape.intermediate) else 0  # of the last layer
        backward = max(attention - known, piece - known)
    angles = 2 * shape.head_size * 4 * tokens  # cos and sin
    return max(loss, backward) + angles


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
    shape: Architecture,
    tokens: int,
    width: int,
    *,
    recompute: bool,
    lora: Lora | None = None,
    stored: int = 4,
) -> int:
    """Bytes at the most of a training step with `tokens` tokens held at a time.

    Under autocast (width 2) matrices that LoRA freezes are held in bfloat16 if they are `stored` in
    2 bytes; else in float32, and those of all layers that keep their activations as copies, too.
    """
    weights, trained = held_weights(shape, width, recompute=recompute, lora=lora, stored=stored)
    options = {"recompute": recompute, "lora": lora}
    held = kept(shape, tokens, width, **options)
    held += passing_gradients(shape, tokens, width, **options)
    cast = CAST if width == 2 else 0
    return weights + max((STATES + cast) * trained + held, STEPPING * trained)


def held_weights(
    shape: Architecture, width: int, *, recompute: bool, lora: Lora | None, stored: int
) -> tuple[int, int]:
    """Bytes of the weights that do not train, and how many do."""
    if lora is None:
        return 0, shape.parameters
    cast = CAST if width == 2 else 0
    changes, whole = lora_weights(shape, lora)
    body = 2 if width == stored == 2 else 4 + (0 if recompute else cast)
    rest = shape.parameters - shape.body - whole  # embedding or head, norms
    return body * shape.body + (4 + cast) * rest, changes + whole


def gathered(shape: Architecture, width: int) -> int:
    """Bytes that every rank of a training has whole for a time: two layers, the next one coming,
    and embedding and head, each with its gradient and, under autocast, its copy."""
    ends = shape.head * (1 if shape.tied else 2)
    return (8 + (CAST if width == 2 else 0)) * (2 * shape.body // shape.layers + ends)
