"""Pre-training and fine-tuning."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from longrope.config.base import (
    BASE,
    Count,
    Name,
    Positive,
    Seed,
    Settings,
    Share,
    Whole,
    Window,
)
from longrope.windows import window_label

MIXTURE = r"^(text|passage|copy|word|digits-[1-9]|dense-[1-9])$"
Mixture = Annotated[
    dict[Annotated[str, Field(pattern=MIXTURE)], Share],
    Field(
        description="Share of each kind of sequence; they add up to 1. `text`: segments between BOS"
        " and EOS, as in the paper. `passage`: without them. `digits-K`, `word`: passkey documents."
        " `dense-K`: statements `word is KKK.`, many of them repeated. `copy`: a segment twice."
        " `workflow/longrope/training/mixture.py` makes them."
    ),
]


def _sums_to_one(mixture: dict[str, float]) -> None:
    if abs(sum(mixture.values()) - 1) > 1e-6:
        raise ValueError(f"the shares of a mixture add up to {sum(mixture.values()):g}, not to 1")


class LoopSettings(Settings):
    """What pre-training and fine-tuning share."""

    clip: Positive = 1.0
    """Largest norm of the gradient."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of activations; weights that train are float32."""
    checkpoint_every: Count = 100
    """Steps between checkpoints: a killed run loses at most so many."""


class Phase(Settings):
    """A stretch of pre-training at one length and mixture."""

    steps: Count
    """Steps of the optimiser."""
    length: Window
    """Tokens a sequence."""
    mixture: Mixture

    @model_validator(mode="after")
    def _check(self):
        _sums_to_one(self.mixture)
        return self


class Architecture(Settings):
    """A Llama to train from nothing."""

    hidden_size: Count
    """Width of the layers."""
    layers: Count
    """How many."""
    heads: Count
    """Of attention; they share the hidden size."""
    intermediate_size: Count
    """Width of the MLPs."""
    vocabulary: Annotated[int, Field(ge=300)]
    """Of the tokenizer that is trained with it."""
    theta: Positive
    """Base of the RoPE frequencies."""

    @model_validator(mode="after")
    def _check(self):
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of 2 x heads ({self.heads}): heads"
                " have an even size, as their dimensions turn in pairs"
            )
        return self


class PretrainSettings(LoopSettings):
    """A small model made from the project's own corpus: tokenizer, weights, card."""

    architecture: Architecture
    """Its size."""
    phases: list[Phase] = Field(min_length=1)
    """Lengths and mixtures, one after the other."""
    tokens_per_step: Count
    """A step has as many sequences as make so many tokens."""
    compile: bool = False
    """`torch.compile`: faster steps. On a CPU it needs a C++ compiler. A tuning has no such key:
    there attention would get a mask of length x length numbers."""
    muon_rate: Positive = 0.02
    """Learning rate of the matrices inside the layers (Muon)."""
    adam_rate: Positive = 0.003
    """Learning rate of embeddings and norms (AdamW)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of both."""
    warmup: Whole = 50
    """Steps over which the rates rise."""
    hold: Share = 0.6
    """The rates are constant up to this share of the steps, then fall linearly."""
    final: Share = 0.02
    """To this share of themselves."""


class Lora(Settings):
    """Low-rank changes of the attention's matrices, merged at the end; the rest is frozen.

    Needs the extra `lora`, and a larger `learning_rate` than every weight does."""

    rank: Count
    """Of the changes."""
    alpha: Positive | None = None
    """They are scaled by alpha / rank; `null`: twice the rank."""
    train: list[Literal["norms", "embeddings"]] = ["norms", "embeddings"]
    """What trains whole beside them; LongLoRA found both needed for long windows."""


class ShortSequences(Settings):
    """Short sequences with the original RoPE among the long ones (LongRoPE2)."""

    share: Annotated[float, Field(gt=0, lt=1)]
    """Of the tokens of a step; `batch` x `share` must be a whole number of sequences."""
    length: Window | None = None
    """Tokens of each; must divide the length of the long ones. `null`: the original window."""


class TuningSettings(LoopSettings):
    """A fine-tuning at one window, with that window's factors."""

    start: Name = BASE
    """Weights to start from: `base`, or another tuning."""
    method: Name
    """Whose factors: `search` or a variant, or a closed form (`pi`, `ntk`, `yarn`, …)."""
    window: Window
    """Whose factors, of the method."""
    length: Window | None = None
    """Tokens a sequence, at most the window; `null`: the window. The paper tuned Mistral on shorter
    text."""
    positions: Literal["consecutive", "skipped"] = "consecutive"
    """`skipped`: positions of sequences shorter than the window jump, so that they reach over all
    of it (PoSE)."""
    pieces: Annotated[int, Field(ge=2)] = 2
    """Runs of positions without a jump, where they jump."""
    short: ShortSequences | None = None
    """Short sequences with the original RoPE among the long ones."""
    lora: Lora | None = None
    """Changes of low rank; `null`: every weight trains."""
    checkpointing: bool = False
    """Activations of a layer are not kept but computed again for its gradient: much less memory for
    about a third more time."""
    steps: Count
    """Steps of the optimiser."""
    batch: Count
    """Sequences a step."""
    micro_batch: Count = 1
    """Sequences that are held at a time (memory); must divide `batch`."""
    learning_rate: Positive
    """The highest, of AdamW."""
    schedule: Literal["linear", "constant"] = "linear"
    """`linear`: the rate falls to zero."""
    warmup: Whole = 0
    """Steps over which the rate rises."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW."""
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
    seed: Seed

    @model_validator(mode="after")
    def _check(self):
        if self.name == BASE:
            raise ValueError("base names the pre-trained weights; choose another name")
        return self
