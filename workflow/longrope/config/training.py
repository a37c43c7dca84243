"""Pre-training and fine-tuning."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from longrope.config.base import BASE, Count, Name, Positive, Settings, Share, Window
from longrope.windows import window_label

MIXTURE = r"^(text|passage|copy|word|digits-[1-9]|dense-[1-9])$"
Mixture = Annotated[
    dict[Annotated[str, Field(pattern=MIXTURE)], Share],
    Field(description="share of each kind of sequence; see workflow/longrope/mixture.py"),
]


def _sums_to_one(mixture: dict[str, float]) -> None:
    if abs(sum(mixture.values()) - 1) > 1e-6:
        raise ValueError(f"the shares of a mixture add up to {sum(mixture.values()):g}, not to 1")


class LoopSettings(Settings):
    """What pre-training and fine-tuning share."""

    clip: Positive = 1.0  # largest norm of the gradient
    precision: Literal["float32", "bfloat16"] = "float32"  # of activations; what trains is float32
    checkpoint_every: Count = 100  # steps; a killed run loses at most so many


class Phase(Settings):
    """A stretch of pre-training at one length and mixture."""

    steps: Count
    length: Window  # tokens a sequence
    mixture: Mixture

    @model_validator(mode="after")
    def _check(self):
        _sums_to_one(self.mixture)
        return self


class Architecture(Settings):
    """A Llama to train from nothing."""

    hidden_size: Count
    layers: Count
    heads: Count
    intermediate_size: Count
    vocabulary: Annotated[int, Field(ge=300)]  # of the tokenizer that is trained with it
    theta: Positive  # base of the RoPE frequencies


class PretrainSettings(LoopSettings):
    """A small model made from the project's own corpus: tokenizer, weights, card."""

    architecture: Architecture
    phases: list[Phase] = Field(min_length=1)
    tokens_per_step: Count
    compile: bool = False  # torch.compile: faster steps, needs a C++ compiler on CPU
    muon_rate: Positive = 0.02  # for matrices inside the layers
    adam_rate: Positive = 0.003  # for embeddings and norms
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 50  # steps
    hold: Share = 0.6  # the rate is constant up to this share of the steps, then falls linearly
    final: Share = 0.02  # to this share of itself


class Lora(Settings):
    """Low-rank changes of the attention's matrices, merged at the end; the rest is frozen."""

    rank: Count
    alpha: Positive | None = None  # the change is scaled by alpha / rank; null: twice the rank
    # What trains whole beside them: for long windows both are needed (LongLoRA).
    train: list[Literal["norms", "embeddings"]] = ["norms", "embeddings"]


class ShortSequences(Settings):
    """Short sequences with the original RoPE among the long ones (LongRoPE2)."""

    share: Annotated[float, Field(gt=0, lt=1)]  # of the tokens of a step
    length: Window | None = None  # tokens of each; null: the original window


class TuningSettings(LoopSettings):
    """A fine-tuning at one window, with that window's factors."""

    start: Name = BASE  # weights to start from: base, or another tuning
    method: Name  # whose factors: search, or a closed form such as yarn
    window: Window
    length: Window | None = None  # tokens a sequence, at most the window; null: the window
    # skipped: positions of a shorter sequence jump, so that they reach over the window (PoSE).
    positions: Literal["consecutive", "skipped"] = "consecutive"
    pieces: Annotated[int, Field(ge=2)] = 2  # runs of positions without a jump, where they jump
    short: ShortSequences | None = None
    lora: Lora | None = None  # null: every weight trains
    checkpointing: bool = False  # activations of a layer are computed again: memory for time
    steps: Count
    batch: Count  # sequences a step
    micro_batch: Count = 1  # sequences that are held at a time
    learning_rate: Positive
    schedule: Literal["linear", "constant"] = "linear"  # linear decay to zero, or none
    warmup: int = Field(default=0, ge=0)  # steps
    betas: tuple[Share, Share] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    mixture: Mixture = {"text": 1.0}

    @model_validator(mode="after")
    def _check(self):
        _sums_to_one(self.mixture)
        length = self.sequence_length
        if length > self.window:
            raise ValueError("length must not exceed window")
        if self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}")
        if self.positions == "skipped" and not self.pieces <= length < self.window:
            raise ValueError(
                f"positions: skipped needs a length from pieces ({self.pieces}) up to below the"
                f" window, {window_label(self.window)}; it is {window_label(length)}: set length"
            )
        if self.short and not 1 <= self.short_sequences < self.batch:
            raise ValueError(
                f"short.share {self.short.share:g} of batch {self.batch} leaves no long sequence,"
                " or none that is replaced: change one of them"
            )
        if self.short and abs(self.short_sequences - self.short.share * self.batch) > 1e-6:
            raise ValueError(
                f"short.share {self.short.share:g} of batch {self.batch} is no whole number of"
                " sequences: change one of them"
            )
        return self

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence, but for short ones."""
        return self.length or self.window

    @property
    def short_sequences(self) -> int:
        """How many sequences of a step give way to as many tokens of short ones."""
        return round(self.short.share * self.batch) if self.short else 0


class TuningStage(Settings):
    """Stage slice of `finetune_model`."""

    name: Name  # what the tuned weights are called
    tuning: TuningSettings
    seed: int
