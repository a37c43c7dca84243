"""
The configuration, typed: what every key means, and what it may hold.

One module a part of a configuration file; this one holds models and the whole. The JSON schema for
editors (`workflow/schemas/config.schema.json`) is generated from here, and from it the reference
for people (`docs/configuration.md`, by `reference.py`). A stage gets its slice of the configuration
as one JSON string. `longrope/reading.py` turns what a user wrote into these types,
`longrope/checks.py` says whether they fit together.
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from longrope.config.base import NAME, HubName, Name, Place, Precision, Seed, Settings, Window
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

    precision: Precision = "auto"
    """In which type searches and evaluations run the model; a tuning has its own. `auto`: float32
    on a CPU, bfloat16 on a GPU. A CPU with AMX is twice as fast in bfloat16, others are slower."""
    attention: Kernel = "sdpa"
    """The kernel of attention, of all that runs the model. `sdpa` is torch's own and runs
    everywhere; the others need a GPU and their package, and no float32."""


class FolderModel(Checkpoint):
    """A checkpoint on disk, as `save_pretrained` writes it."""

    kind: Literal["folder"]
    path: Place
    """The folder, with `config.json`, tokenizer and weights (safetensors, or pickled ones)."""


class HubModel(Checkpoint):
    """A checkpoint of the Hugging Face hub."""

    kind: Literal["hub"]
    name: HubName
    """Such as `mistralai/Mistral-7B-v0.1`."""
    revision: str | None = None
    """Commit, tag or branch; pin it in anything that is to be repeated."""


class GgufModel(Checkpoint):
    """A GGUF file; its weights are dequantised."""

    kind: Literal["gguf"]
    path: Place
    """The file."""


class PretrainedHere(PretrainSettings):
    """A model that the workflow trains from nothing first."""

    kind: Literal["pretrain"]


class Corpora(Settings):
    """A corpus for each use, where one does not serve all."""

    train: Name
    """The corpus that tunings read."""
    validation: Name
    """The corpus that searches read."""
    test: Name
    """The corpus of those evaluations that name none themselves."""


class Extension(Settings):
    """The long windows and the recovered short ones, on tuned weights, without training."""

    weights: Name
    """The tuning that is extended."""
    corpus: Name | None = None
    """Whose validation documents these searches read; `null`: those of the first search."""
    optimiser: OptimiserSettings | None = None
    """How these searches and recoveries look for factors; `null`: as the model's own."""
    fitness: Fitness | None = None
    """What they minimise; `null`: as the model's own."""
    attention_factor: SearchedAttention | None = None
    """As for the model; `null`: the model's own. `su` and `yarn` count from the tuned window and
    multiply the tuned factor."""
    search: dict[Window, Budget] = {}
    """The second search, above the tuned window. What it finds multiplies the tuned factors; each
    window starts from the one before."""
    recovery: dict[Window, Budget] = {}
    """Searches for short windows, below the tuned one. Their factors are absolute."""


class ModelSettings(Settings):
    """One model, and what is done with it."""

    source: Annotated[
        FolderModel | HubModel | GgufModel | PretrainedHere, Field(discriminator="kind")
    ]
    """Where it comes from."""
    original_window: Window
    """Tokens that it was pre-trained for. Must be its `max_position_embeddings`, or its sliding
    window, which the import switches off; where these are wrong, correct config.json in a copy of
    the folder. With `rope: own` the window that it is said to have."""
    rope: Plain = "plain"
    """`plain`: the RoPE of its pre-training, which is extended. `own`: a published long-context
    checkpoint, which keeps the RoPE (`linear`, `dynamic`, `yarn`, `llama3`, `longrope`, or another
    theta) and the sliding window that it comes with, and is only evaluated: `{base: [none]}`.
    `docs/architectures.md` has an example."""
    corpus: Name | Corpora
    """One of the `corpora` for everything, or another for each use."""
    optimiser: OptimiserSettings = Bayesian(name="bayesian")
    """How factors are searched."""
    attention_factor: SearchedAttention = "none"
    """Multiplies cos and sin of searched factors. `none`: the paper's equations. `su`: the authors'
    released code, sqrt(1 + ln s / ln L). `yarn`: 0.1 ln s + 1. A number. `search`: one more number
    that is searched."""
    fitness: Fitness = Fitness()
    """What a search minimises."""
    space: SpaceSettings = PaperSpace()
    """Which factors may be proposed."""
    search: dict[Window, Budget] = {}
    """The first search, on the pre-trained weights: windows, and what each may spend."""
    variants: dict[Annotated[str, Field(pattern=f"^search-{NAME}$")], Variant] = {}
    """The same searches otherwise, each a method of its name (`search-…`): to compare, or to tune
    with."""
    tunings: dict[Name, TuningSettings] = {}
    """Fine-tunings; the name becomes a folder and is what evaluations call these weights."""
    extension: Extension | None = None
    """The second search and the recovery."""
    evaluation: dict[Name, EvaluationSettings] = {}
    """What is measured; the name becomes a folder and says in tables which text it is."""
    export: ExportSettings = ExportSettings()
    """How the target `export` writes the extended model, in all of its forms."""

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
    seed: Seed


class Config(Settings):
    """A whole configuration file."""

    seed: Seed
    """Every random choice derives from it."""
    corpora: dict[Name, CorpusSettings] = Field(min_length=1)
    """The texts, by name."""
    models: dict[Name, ModelSettings] = Field(min_length=1)
    """What is extended, and how, by name; names become folders in `results/`."""


def json_schema() -> dict:
    """The JSON schema of a configuration file."""
    return Config.model_json_schema()
