"""
The configuration, typed: what every key means, what it may hold, and what must fit together.

The JSON schema for editors (`workflow/schemas/config.schema.json`) is generated from here. A stage
gets its slice of the configuration as one JSON string. `reading.py` turns what a user wrote into
these types, `study.py` checks what must fit together.
"""

import hashlib
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from longrope.windows import PATTERN, parse_window, window_label

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # names of models, corpora and tunings: parts of paths
BASE = "base"  # the weights that a model comes with

Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Window = Annotated[
    int,
    BeforeValidator(parse_window),
    PlainSerializer(window_label, return_type=str),
    WithJsonSchema({"type": ["integer", "string"], "pattern": f"^{PATTERN}$"}),
]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """A part of the configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- corpora --------------------------------------------------------------------------------


class HubSource(Settings):
    """A data set of the Hugging Face hub; pin `revision` in anything that is to be repeated."""

    kind: Literal["hub"]
    name: str  # such as emozilla/pg19
    subset: str | None = None  # its configuration, where it has several
    revision: str | None = None  # commit, tag or branch
    text_column: str = "text"
    id_column: str | None = None  # without it, a document is called SPLIT-NUMBER


class TextSource(Settings):
    """Text files, one document each, named after the file; may be compressed (.gz, .xz, .bz2)."""

    kind: Literal["text"]
    files: list[str] = Field(min_length=1)  # paths or globs, from the working directory


class TableSource(Settings):
    """JSON lines or parquet files, one document a row."""

    kind: Literal["jsonl", "parquet"]
    files: list[str] = Field(min_length=1)  # paths or globs, from the working directory
    text_column: str = "text"
    id_column: str | None = None  # without it, a document is called train-NUMBER


class PackageSource(Settings):
    """Text files that an installed Python package ships, one document each."""

    kind: Literal["package"]
    package: str  # its name for pip
    files: list[str] = Field(min_length=1)  # globs within the package


class Splits(Settings):
    """Which documents are train, validation and test; none is in two of them."""

    # Document ids, a share of all documents (drawn by id), or the name of the source's own split.
    validation: list[str] | Share | str | None = None
    test: list[str] | Share | str | None = None
    train: str | None = None  # the source's own split; without it, all other documents
    limits: dict[Literal["train", "validation", "test"], Count] = {}  # at most so many documents

    @model_validator(mode="after")
    def _check(self):
        kinds = {type(value) for value in (self.validation, self.test) if value is not None}
        if len(kinds) > 1:
            raise ValueError("validation and test are given the same way: ids, shares or names")
        if self.train is not None and kinds and kinds != {str}:
            raise ValueError("train names a split of the source, so validation and test must too")
        if kinds == {list} and (both := set(self.validation or []) & set(self.test or [])):
            raise ValueError(f"in validation and in test: {', '.join(sorted(both))}")
        if kinds == {float} and (self.validation or 0) + (self.test or 0) >= 1:
            raise ValueError("the shares of validation and test leave nothing to train on")
        return self

    @property
    def named(self) -> dict[str, str]:
        """Split -> the source's own split, where the source has them."""
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: name for split, name in given.items() if isinstance(name, str)}

    @property
    def listed(self) -> set[str]:
        """Every document id that is named."""
        lists = [value for value in (self.validation, self.test) if isinstance(value, list)]
        return {id_ for ids in lists for id_ in ids}

    def used(self, split: str) -> bool:
        """Whether any document can be in a split."""
        if self.named:
            return split in self.named
        return split == "train" or bool(getattr(self, split))

    def of(self, id_: str) -> Literal["train", "validation", "test"]:
        """The split of a document, by its id."""
        if isinstance(self.validation, list) or isinstance(self.test, list):
            if id_ in (self.validation or []):
                return "validation"
            return "test" if id_ in (self.test or []) else "train"
        draw = int(hashlib.sha256(id_.encode()).hexdigest()[:8], 16) / 2**32
        validation, test = self.validation or 0.0, self.test or 0.0
        if draw < validation:
            return "validation"
        return "test" if draw < validation + test else "train"


class CorpusSettings(Settings):
    """Text for searching, tuning and evaluating."""

    source: Annotated[
        HubSource | TextSource | TableSource | PackageSource, Field(discriminator="kind")
    ]
    splits: Splits
    # Join documents until they have this many tokens; the manifest says which. For windows longer
    # than any document: perplexities over a joint are not those of one long text.
    join_to: Window | None = None

    @model_validator(mode="after")
    def _check(self):
        if self.splits.named and self.source.kind != "hub":
            raise ValueError(
                f"a {self.source.kind} source has no splits of its own: give splits document ids"
                " or shares"
            )
        return self


class Need(Settings):
    """What a stage needs of a split; checked when the corpus is tokenised."""

    split: Literal["train", "validation", "test"]
    documents: int
    tokens: int  # the least length of each
    reason: str
    windows: int = 1  # so many of that length must fit in all of them, without overlap


class TokenizeSettings(Settings):
    """Stage slice of `tokenize_corpus`."""

    corpus: CorpusSettings
    needs: list[Need] = []


# --- training -------------------------------------------------------------------------------

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
    precision: Literal["float32", "bfloat16"] = "float32"  # of activations; weights stay float32
    checkpoint_every: Count = 100  # steps; a killed run loses at most so many
    compile: bool = False  # torch.compile: faster steps, needs a C++ compiler on CPU


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
    muon_rate: Positive = 0.02  # for matrices inside the layers
    adam_rate: Positive = 0.003  # for embeddings and norms
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 50  # steps
    hold: Share = 0.6  # the rate is constant up to this share of the steps, then falls linearly
    final: Share = 0.02  # to this share of itself


class TuningSettings(LoopSettings):
    """A fine-tuning at one window, with that window's factors."""

    start: Name = BASE  # weights to start from: base, or another tuning
    method: Name  # whose factors: search, or a closed form such as yarn
    window: Window
    length: Window | None = None  # tokens a sequence, at most the window; null: the window
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
        if self.length and self.length > self.window:
            raise ValueError("length must not exceed window")
        if self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}")
        return self


# --- search ---------------------------------------------------------------------------------


def _some(starts: list[str]) -> list[str]:
    if not starts:
        raise ValueError("only the paper's evolution searches without a start")
    return starts


class Starting(Settings):
    """What every optimiser is told of where to begin."""

    # Closed forms to begin from.
    starts: Annotated[list[Name], AfterValidator(_some)] = [
        "pi", "ntk", "yarn", "mrrope-pro", "llama3",
    ]  # fmt: skip
    warm: bool = True  # also let them stretch the factors of the window before, where there are any


class Evolution(Starting):
    """The paper's search (Algorithm 1), with the paper's numbers (Table 4)."""

    name: Literal["evolution"]
    population: Annotated[int, Field(ge=4)] = 64  # P
    mutations: Count = 16  # N1, a generation
    crossovers: Count = 16  # N2, a generation
    mutate_probability: Share = 0.3  # p
    parents: Annotated[int, Field(ge=2)] = 32  # k
    # Closed forms in the initial population; without any it is drawn at random.
    starts: list[Name] = ["pi", "ntk", "yarn"]
    warm: bool = False  # not in the paper
    racing: bool = False  # drop candidates that are clearly worse on the first documents

    @model_validator(mode="after")
    def _check(self):
        if self.parents > self.population:
            raise ValueError(f"parents {self.parents} must not exceed population {self.population}")
        return self


class Cma(Starting):
    """CMA-ES over the logarithms of lambda's increments, started from the best closed form."""

    name: Literal["cma"]
    population: Annotated[int, Field(ge=4)] = 12  # candidates a generation
    sigma: Positive = 0.08  # first step size, in nats of lambda


class Bayesian(Starting):
    """A Gaussian process over scores on single documents, around the best candidate."""

    name: Literal["bayesian"]
    sigma: Positive = 0.08  # size of a step, in nats of lambda
    batch: Count = 4  # candidates a generation
    ramps: Annotated[int, Field(ge=0)] = 24  # random smooth candidates beside the starts
    check_every: Annotated[int, Field(ge=2)] = 8  # generations between two scores on all documents
    finalists: Count = 3  # candidates that are scored on all documents at the end


OptimiserSettings = Annotated[Evolution | Cma | Bayesian, Field(discriminator="name")]


class PaperSpace(Settings):
    """Table 4 of the paper: every pair in [1, 1.25 s], n_hat of a list."""

    kind: Literal["paper"] = "paper"
    monotone: bool = True  # lambda does not decrease with the pair
    # What is searched; without n_hat it stays as it is (0, or the tuned one), without lambda every
    # n_hat is tried on every start.
    vary: list[Literal["lambda", "n_hat"]] = Field(default=["lambda", "n_hat"], min_length=1)


class CriticalSpace(Settings):
    """LongRoPE2's space: pairs from the critical one up in [s, 2 s], those below derived."""

    kind: Literal["critical"]
    pair: Literal["searched", "theoretical"] | Count = "searched"  # or its number, from 0
    monotone: Literal[True] = True
    vary: list[Literal["lambda", "n_hat"]] = Field(default=["lambda"], min_length=1)


SpaceSettings = Annotated[PaperSpace | CriticalSpace, Field(discriminator="kind")]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Fitness(Settings):
    """What a search minimises: a weighted sum of mean losses, each in nats a token."""

    perplexity: Weight = 1.0  # of all tokens of the validation documents (the paper's fitness)
    needle: Weight = 0.0  # of the answers to passkeys hidden in documents of the same length
    long_tokens: Weight = 0.0  # of the tokens that the long context helps
    needles: Count = 1  # passkey documents to every validation document
    helped_by: Positive = 2.0  # nats that the long context must spare a token that it helps
    known_below: Positive = 2.0  # nats that such a token may cost at most, with the long context
    long_with: Name = "yarn"  # the closed form whose factors choose those tokens, once

    @model_validator(mode="after")
    def _check(self):
        if not self.perplexity + self.needle + self.long_tokens:
            raise ValueError("a fitness needs a weight above 0")
        return self

    def without_long_tokens(self) -> "Fitness":
        """The same for short windows; perplexity if nothing else is left."""
        perplexity = self.perplexity or float(not self.needle)
        return self.model_copy(update={"long_tokens": 0.0, "perplexity": perplexity})


AttentionFactor = Literal["none", "su", "yarn"] | Positive
SearchedAttention = Literal["none", "su", "yarn", "search"] | Positive


class Budget(Settings):
    """What one window's search may spend."""

    # Scores on all documents, at most; an optimiser that scores on single documents makes as many
    # candidates more of it. No candidate is scored twice on a document.
    evaluations: Count
    documents: Count = 5  # validation documents a candidate is scored on, one window each
    optimiser: OptimiserSettings | None = None  # instead of the model's own

    @property
    def scores(self) -> int:
        """The budget in scores on one document."""
        return self.evaluations * self.documents


class Variant(Settings):
    """The searches of a model once more, with something changed; to compare, or to tune with."""

    windows: list[Window] | None = None  # of search and extension.search; null: those of search
    seeds: list[int] = []  # with several, one search each, called NAME-seed1, ...
    budget: Budget | None = None  # instead of the windows' own, and so on
    optimiser: OptimiserSettings | None = None
    space: SpaceSettings | None = None
    fitness: Fitness | None = None
    attention_factor: SearchedAttention | None = None


class SearchSettings(Settings):
    """Stage slice of `search_factors`, for one window."""

    window: Window
    budget: Budget
    optimiser: OptimiserSettings
    space: SpaceSettings = PaperSpace()
    fitness: Fitness = Fitness()
    attention_factor: SearchedAttention = "none"
    seed: int


# --- evaluation -----------------------------------------------------------------------------


def _as_mapping(given: object) -> object:
    """A list of methods as a mapping to no longest length; anything else is for pydantic."""
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        return dict.fromkeys(given)
    return given


# Weights -> methods to measure, each with the longest length at which it is (None: at all).
# May be written as a list of methods, or as a mapping such as {none: 2k, yarn: 16k}.
Methods = dict[
    Name,
    Annotated[
        dict[Name, Window | None],
        BeforeValidator(_as_mapping),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "object", "additionalProperties": {"type": ["string", "integer"]}},
                ]
            }
        ),
    ],
]


MAIN = (  # tables and figures that the target `all` makes
    "table05", "table06", "table07", "table09", "table10", "passkey", "searches", "fitness",
    "summary", "figure1", "figure2", "figure4", "depths", "figure5", "figure6",
)  # fmt: skip
ABLATIONS = (  # and those that the target `study` adds: more searches, tunings, the harness
    "table01", "table02", "table03", "table08", "table11", "table12", "figure3", "figure5c",
)  # fmt: skip
Shown = Annotated[str, Field(pattern=f"^({'|'.join((*MAIN, *ABLATIONS))})$")]


class PerplexitySettings(Settings):
    """Perplexity of held-out documents."""

    task: Literal["perplexity"]
    corpus: Name | None = None  # whose test documents; null: the model's corpus
    # For each length, how many windows; they are spread over the test documents, not overlapping.
    windows: dict[Window, Count] = Field(min_length=1)
    # Tokens between two windows of a document's stretch. null: windows do not overlap and all of
    # their tokens are scored. A number: after the first window only the last so many tokens of
    # each are scored, each token once (the paper uses 256: at 128k, 512 times the cost); windows
    # shorter than it do not overlap.
    stride: Window | None = None
    # Where a document's windows are: in its middle, or one at its start (`truncate`: what the
    # released scripts of LongRoPE and YaRN measure).
    mode: Literal["stride", "truncate"] = "stride"
    methods: Methods = {}
    shown_in: list[Shown] = [
        "table06", "table09", "table10", "searches", "fitness", "summary",
        "figure1", "figure2", "figure5", "figure6",
    ]  # fmt: skip

    @model_validator(mode="after")
    def _check(self):
        if self.mode == "truncate" and self.stride:
            raise ValueError("mode truncate has one window a document: leave stride out")
        return self

    @property
    def amounts(self) -> dict[int, int]:
        """How much is measured at each length."""
        return self.windows


class PasskeySettings(Settings):
    """Retrieval of a key from the paper's passkey document."""

    task: Literal["passkey"]
    key: Annotated[str, Field(pattern=r"^(word|digits-[1-9])$")] = "digits-5"
    prompts: dict[Window, Count] = Field(min_length=1)  # for each length, how many documents
    methods: Methods = {}
    shown_in: list[Shown] = ["passkey", "fitness", "summary", "figure4", "depths"]

    @property
    def amounts(self) -> dict[int, int]:
        """How much is measured at each length."""
        return self.prompts


Benchmark = Literal["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2"]
SHOTS = {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0}  # in the paper
EXAMPLE = 16  # tokens that an example takes at the very least


class BenchmarksSettings(Settings):
    """Questions of lm-evaluation-harness (Table 8 of the paper)."""

    task: Literal["benchmarks"]
    benchmarks: list[Benchmark] = Field(default=list(SHOTS), min_length=1)
    # The longest sequence, a question with its examples and an answer: longer ones are refused.
    # Each sequence has the factors of its own length.
    window: Window
    questions: Count | None = None  # at most so many of each benchmark; null: all
    shots: Annotated[int, Field(ge=0)] | None = None  # examples; null: as many as the paper
    # A folder that `longrope fetch-benchmarks` made; null: the harness fetches from the hub.
    files: str | None = None
    methods: Methods = {}
    shown_in: list[Shown] = ["table08"]

    @model_validator(mode="after")
    def _check(self):
        for name in self.benchmarks:
            if (shots := self.shots_of(name)) * EXAMPLE > self.window:
                raise ValueError(
                    f"a window of {window_label(self.window)} cannot hold the {shots} examples of"
                    f" {name}: raise window, or set shots: 0"
                )
        return self

    def shots_of(self, name: str) -> int:
        """How many examples stand before each question of a benchmark; TruthfulQA takes none."""
        return min(SHOTS[name], SHOTS[name] if self.shots is None else self.shots)

    @property
    def amounts(self) -> dict[int, int]:
        """How much is measured at each length; 0: all questions."""
        return {self.window: self.questions or 0}


Needle = Literal[
    "niah_single_1", "niah_single_2", "niah_single_3",
    "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
]  # fmt: skip


class RulerSettings(Settings):
    """RULER's needles, by lm-evaluation-harness: one or several keys, one of which is asked for."""

    task: Literal["ruler"]
    needles: list[Needle] = Field(default=["niah_single_1", "niah_multikey_1"], min_length=1)
    prompts: dict[Window, Count] = Field(min_length=1)  # for each length, how many of each needle
    # Text files that stand for RULER's essays, in single_2, single_3 and multikey_1.
    haystack: list[str] = Field(default=["resources/books/*.txt.xz"], min_length=1)
    methods: Methods = {}
    shown_in: list[Shown] = ["passkey"]

    @property
    def amounts(self) -> dict[int, int]:
        """How much is measured at each length."""
        return self.prompts


EvaluationSettings = Annotated[
    PerplexitySettings | PasskeySettings | BenchmarksSettings | RulerSettings,
    Field(discriminator="task"),
]


# --- models ---------------------------------------------------------------------------------


class FolderModel(Settings):
    """A checkpoint on disk, as `save_pretrained` writes it."""

    kind: Literal["folder"]
    path: str


class HubModel(Settings):
    """A checkpoint of the Hugging Face hub."""

    kind: Literal["hub"]
    name: str  # such as mistralai/Mistral-7B-v0.1
    revision: str | None = None


class GgufModel(Settings):
    """A GGUF file; its weights are dequantised."""

    kind: Literal["gguf"]
    path: str


class PretrainedHere(PretrainSettings):
    """A model that the workflow trains from nothing first."""

    kind: Literal["pretrain"]


class Extension(Settings):
    """The long windows and the recovered short ones, on tuned weights, without training."""

    weights: Name  # the tuning that is extended
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
    original_window: Window  # tokens it was pre-trained for; checked against the checkpoint
    corpus: Name
    optimiser: OptimiserSettings = Bayesian(name="bayesian")
    # Multiplies cos and sin of searched factors: none (the paper's equations), su (the authors'
    # released code: sqrt(1 + ln s / ln L)), yarn (0.1 ln s + 1), or a number.
    # or `search`: one more number that is searched.
    attention_factor: SearchedAttention = "none"
    fitness: Fitness = Fitness()
    space: SpaceSettings = PaperSpace()
    search: dict[Window, Budget] = {}  # on the pre-trained model
    variants: dict[Annotated[str, Field(pattern=f"^search-{NAME}$")], Variant] = {}
    tunings: dict[Name, TuningSettings] = {}
    extension: Extension | None = None
    # Name -> what is measured, at which lengths, for which weights and methods.
    evaluation: dict[Name, EvaluationSettings] = {}


class PerplexityStage(Settings):
    """Stage slice of `evaluate_perplexity`, for one method of one checkpoint."""

    evaluation: Name  # what the evaluation is called
    method: Name
    windows: dict[Window, Count]
    stride: Window | None = None
    mode: Literal["stride", "truncate"] = "stride"


class PasskeyStage(Settings):
    """Stage slice of `evaluate_passkey`, for one method of one checkpoint."""

    evaluation: Name
    method: Name
    prompts: dict[Window, Count]
    key: str
    seed: int


class BenchmarksStage(Settings):
    """Stage slice of `evaluate_benchmarks`, for one method of one checkpoint."""

    evaluation: Name
    method: Name
    window: Window
    shots: dict[Benchmark, int]  # benchmark -> examples before each question
    questions: Count | None = None
    files: str | None = None


class RulerStage(Settings):
    """Stage slice of `evaluate_ruler`, for one method of one checkpoint."""

    evaluation: Name
    method: Name
    needles: list[Needle]
    prompts: dict[Window, Count]
    haystack: list[str]
    seed: int


class TuningStage(Settings):
    """Stage slice of `finetune_model`."""

    name: Name  # what the tuned weights are called
    tuning: TuningSettings
    seed: int


class ImportStage(Settings):
    """Stage slice of `import_model`."""

    source: Annotated[FolderModel | HubModel | GgufModel, Field(discriminator="kind")]
    original_window: Window


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
