"""
The configuration, typed: what every key means, and what it may hold.

One module a part of a configuration file; this one holds models and the whole. The JSON schema for
editors (`workflow/schemas/config.schema.json`) is generated from here. A stage gets its slice of
the configuration as one JSON string. `reading.py` turns what a user wrote into these types,
`checks.py` says whether they fit together.
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from longrope.config.base import NAME, Name, Precision, Settings, Window
from longrope.config.corpus import CorpusSettings
from longrope.config.evaluation import OF_EXTENDING, EvaluationSettings
from longrope.config.export import ExportSettings
from longrope.config.search import (
    Bayesian,
    Budget,
    Fitness,
    OptimiserSettings,
    PaperSpace,
    SearchedAttention,
    SpaceSettings,
    Variant,
)
from longrope.config.training import PretrainSettings, TuningSettings

# Whether a checkpoint's RoPE is that of its pre-training, or one that others rescaled. Left out of
# what stages are handed where it is plain.
RopeOrigin = Literal["plain", "own"]
Plain = Annotated[RopeOrigin, Field(exclude_if=lambda origin: origin == "plain")]


# The kernel of attention, as transformers names it. Left out of what stages are handed where it is
# sdpa, torch's own.
AttentionKernel = Literal["sdpa", "flash_attention_2", "flash_attention_3"]
Kernel = Annotated[AttentionKernel, Field(exclude_if=lambda kernel: kernel == "sdpa")]


class Checkpoint(Settings):
    """A pre-trained model that is brought in."""

    precision: Precision = "auto"  # of searches and evaluations; a tuning has its own
    attention: Kernel = "sdpa"  # of all that runs the model; the others: a GPU, and their package


class FolderModel(Checkpoint):
    """A checkpoint on disk, as `save_pretrained` writes it."""

    kind: Literal["folder"]
    path: str


class HubModel(Checkpoint):
    """A checkpoint of the Hugging Face hub."""

    kind: Literal["hub"]
    name: str  # such as mistralai/Mistral-7B-v0.1
    revision: str | None = None


class GgufModel(Checkpoint):
    """A GGUF file; its weights are dequantised."""

    kind: Literal["gguf"]
    path: str


class PretrainedHere(PretrainSettings):
    """A model that the workflow trains from nothing first."""

    kind: Literal["pretrain"]


class Corpora(Settings):
    """A corpus for each use, where one does not serve all."""

    train: Name  # tunings
    validation: Name  # searches
    test: Name  # evaluations that name no corpus of their own


class Extension(Settings):
    """The long windows and the recovered short ones, on tuned weights, without training."""

    weights: Name  # the tuning that is extended
    corpus: Name | None = None  # whose validation documents; null: as the first search
    optimiser: OptimiserSettings | None = None  # instead of the model's own, and so on
    fitness: Fitness | None = None
    attention_factor: SearchedAttention | None = None
    search: dict[Window, Budget] = {}  # windows beyond the tuned one; factors multiply the tuned
    recovery: dict[Window, Budget] = {}  # short windows; factors are absolute


class ModelSettings(Settings):
    """One model, and what is done with it."""

    source: Annotated[
        FolderModel | HubModel | GgufModel | PretrainedHere, Field(discriminator="kind")
    ]
    # Tokens it was pre-trained for, checked against the checkpoint; with rope: own what it claims.
    original_window: Window
    # plain: the RoPE that it was pre-trained with. own: a published long-context checkpoint, which
    # keeps the RoPE and the sliding window that it comes with, and is only evaluated (method none).
    rope: Plain = "plain"
    corpus: Name | Corpora
    optimiser: OptimiserSettings = Bayesian(name="bayesian")
    # Multiplies cos and sin of searched factors: none (the paper's equations), su (the authors'
    # released code: sqrt(1 + ln s / ln L)), yarn (0.1 ln s + 1), a number, or
    # search: one more number that is searched.
    attention_factor: SearchedAttention = "none"
    fitness: Fitness = Fitness()
    space: SpaceSettings = PaperSpace()
    search: dict[Window, Budget] = {}  # on the pre-trained model
    variants: dict[Annotated[str, Field(pattern=f"^search-{NAME}$")], Variant] = {}
    tunings: dict[Name, TuningSettings] = {}
    extension: Extension | None = None
    # Name -> what is measured, at which lengths, for which weights and methods.
    evaluation: dict[Name, EvaluationSettings] = {}
    export: ExportSettings = ExportSettings()

    @field_validator("evaluation")
    @classmethod
    def _default_places(cls, evaluation: dict, info: ValidationInfo) -> dict:
        """With its own RoPE: shown by default only where such a model has a place."""
        if info.data.get("rope") != "own":
            return evaluation
        return {
            name: each
            if "shown_in" in each.model_fields_set
            else each.model_copy(
                update={"shown_in": [at for at in each.shown_in if at not in OF_EXTENDING]}
            )
            for name, each in evaluation.items()
        }


class ImportStage(Settings):
    """Stage slice of `import_model`."""

    source: Annotated[FolderModel | HubModel | GgufModel, Field(discriminator="kind")]
    original_window: Window
    rope: Plain = "plain"


class PretrainStage(Settings):
    """Stage slice of `pretrain_model`."""

    model: PretrainedHere
    corpus: CorpusSettings
    original_window: Window
    seed: int


class Config(Settings):
    """A whole configuration file."""

    seed: int  # every random choice derives from it
    corpora: dict[Name, CorpusSettings] = Field(min_length=1)
    models: dict[Name, ModelSettings] = Field(min_length=1)


def json_schema() -> dict:
    """The JSON schema of a configuration file."""
    return Config.model_json_schema()
