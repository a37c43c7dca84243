"""
What is measured, and in which tables and figures it is shown.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from longrope.config.base import Count, Name, Place, Seed, Settings, Whole, Window
from longrope.windows import window_label


def _as_mapping(given: object) -> object:
    """A list of methods as a mapping to no longest length; anything else is for pydantic."""
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        return dict.fromkeys(given)
    return given


# The longest length at which each is measured; None: at all.
MethodsOfWeights = Annotated[
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
]
Methods = Annotated[
    dict[Name, MethodsOfWeights],
    Field(
        description="Weights (`base`, or a tuning) to a list of methods, or to a mapping from"
        " method to the longest length at which it is measured, such as `{none: 2k, yarn: 16k}`."
    ),
]


MAIN = (  # tables and figures that the target `all` makes
    "table05", "table06", "table07", "table09", "table10", "passkey", "searches", "fitness",
    "tunings", "summary", "figure1", "figure2", "figure4", "depths", "figure5", "figure6",
)  # fmt: skip
ABLATIONS = (  # and those that the target `study` adds: more searches, tunings, the harness
    "table01", "table02", "table03", "table08", "table11", "table12", "retrieval", "figure3",
    "figure5c",
)  # fmt: skip
# Those of what is searched and tuned here; a model that keeps its own RoPE has no place in them.
OF_EXTENDING = (
    "table01", "table02", "table03", "table09", "table10", "table11", "table12", "searches",
    "fitness", "tunings", "figure2", "figure3", "figure5", "figure5c", "figure6",
)  # fmt: skip
PerplexityShown = Literal[
    "table01", "table02", "table03", "table05", "table06", "table07", "table09", "table10",
    "table11", "table12", "searches", "fitness", "tunings", "summary", "figure1", "figure2",
    "figure3", "figure5", "figure5c", "figure6",
]  # fmt: skip
PasskeyShown = Literal[
    "passkey", "retrieval", "fitness", "tunings", "summary", "figure4", "depths",
]  # fmt: skip
BenchmarksShown = Literal["table08", "table10"]
RulerShown = Literal["passkey", "retrieval"]


class PerplexitySettings(Settings):
    """Perplexity of held-out documents."""

    task: Literal["perplexity"]
    corpus: Name | None = None
    """Whose test documents; `null`: those of the model's corpus."""
    windows: dict[Window, Count] = Field(min_length=1)
    """For each length, how many windows, dealt to the test documents in turn."""
    stride: Window | None = None
    """`null`: windows do not overlap, and all of their tokens are scored. A number: after a
    document's first window only the last so many tokens of each are scored, each token once (the
    paper: 256, which at 128k is 512 times the cost); windows shorter than it do not overlap."""
    documents: Count | None = None
    """Only the first so many test documents, the same at every length (the paper: 10)."""
    at_least: Window | None = None
    """Only those of at least so many tokens (the paper: 128k)."""
    mode: Literal["stride", "truncate"] = "stride"
    """Where a document's windows lie. `stride`: in its middle. `truncate`: one at its start, which
    the released scripts of LongRoPE and YaRN measure."""
    methods: Methods = {}
    shown_in: list[PerplexityShown] = [
        "table06", "table09", "table10", "searches", "fitness", "summary",
        "figure1", "figure2", "figure5", "figure6",
    ]  # fmt: skip
    """The tables and figures that it is part of. With `rope: own` those of searches and tunings
    are left out."""

    @model_validator(mode="after")
    def _check(self):
        if self.mode == "truncate" and self.stride:
            raise ValueError("mode truncate has one window a document: leave stride out")
        return self

    @property
    def amounts(self) -> dict[int, int]:
        """How much is measured at each length."""
        return self.windows


KEY = r"^(word|digits-[1-9])$"


class PasskeySettings(Settings):
    """Retrieval of a key from the paper's passkey document."""

    task: Literal["passkey"]
    key: Annotated[str, Field(pattern=KEY)] = "digits-5"
    """What is hidden: so many digits (the paper: 5), or a word."""
    prompts: dict[Window, Count] = Field(min_length=1)
    """For each length, how many."""
    methods: Methods = {}
    shown_in: list[PasskeyShown] = ["passkey", "fitness", "summary", "figure4", "depths"]
    """The tables and figures that it is part of."""

    @property
    def amounts(self) -> dict[int, int]:
        """How much is measured at each length."""
        return self.prompts


Questions = Annotated[int, Field(ge=2)]  # a standard error takes two
Benchmark = Literal["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2"]
SHOTS = {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0}  # in the paper
EXAMPLE = 16  # tokens that an example takes at the very least


class BenchmarksSettings(Settings):
    """Questions of lm-evaluation-harness (Table 8 of the paper)."""

    task: Literal["benchmarks"]
    benchmarks: list[Benchmark] = Field(default=list(SHOTS), min_length=1)
    """Which."""
    window: Window
    """The longest sequence, examples and answer included; a longer one stops the evaluation,
    nothing is cut. Each sequence has the factors of its own length. The methods are those with
    factors for this window."""
    questions: Questions | None = None
    """At most so many of each, evenly chosen from local files; `null`: all. From the hub: the first
    ones, and of MMLU a 57th of them, rounded up, of each of its 57 subjects (100: 114; 2: 57)."""
    shots: Whole | None = None
    """Examples before each question; `null`: as in the paper, 25, 10, 5 and 0. TruthfulQA has none
    in any case."""
    files: Place | None = None
    """A folder that `longrope fetch-benchmarks --out FOLDER` made (450 MB to download, 4 MB kept),
    or `resources/benchmarks` (100 questions each); `null`: the harness fetches from the hub."""
    methods: Methods = {}
    shown_in: list[BenchmarksShown] = ["table08"]
    """The tables that it is part of; `table10` shows the average of the extended weights."""

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
    """Which."""
    prompts: dict[Window, Count] = Field(min_length=1)
    """For each length, how many of each needle."""
    haystack: list[Place] = Field(default=["resources/books/*.txt.xz"], min_length=1)
    """Text files that stand for RULER's essays, in `niah_single_2`, `niah_single_3` and
    `niah_multikey_1`."""
    methods: Methods = {}
    shown_in: list[RulerShown] = ["passkey"]
    """The tables that it is part of."""

    @property
    def amounts(self) -> dict[int, int]:
        """How much is measured at each length."""
        return self.prompts


EvaluationSettings = Annotated[
    PerplexitySettings | PasskeySettings | BenchmarksSettings | RulerSettings,
    Field(discriminator="task"),
]


class PerplexityStage(Settings):
    """Stage slice of `evaluate_perplexity`, for one method of one checkpoint."""

    evaluation: Name  # what the evaluation is called
    method: Name
    windows: dict[Window, Count]
    stride: Window | None = None
    documents: Count | None = None
    at_least: Window | None = None
    mode: Literal["stride", "truncate"] = "stride"


def protocol_of(asked: PerplexitySettings | PerplexityStage) -> dict[str, str | int]:
    """How the windows of a perplexity lie, as its records say it."""
    return {
        "mode": asked.mode,
        "stride": asked.stride or "length",
        "documents": asked.documents or "all",
        "at_least": asked.at_least or "length",
    }


class PasskeyStage(Settings):
    """Stage slice of `evaluate_passkey`, for one method of one checkpoint."""

    evaluation: Name
    method: Name
    prompts: dict[Window, Count]
    key: str
    seed: Seed


class BenchmarksStage(Settings):
    """Stage slice of `evaluate_benchmarks`, for one method of one checkpoint."""

    evaluation: Name
    method: Name
    window: Window
    shots: dict[Benchmark, int]  # benchmark -> examples before each question
    questions: Questions | None = None
    files: Place | None = None


class RulerStage(Settings):
    """Stage slice of `evaluate_ruler`, for one method of one checkpoint."""

    evaluation: Name
    method: Name
    needles: list[Needle]
    prompts: dict[Window, Count]
    haystack: list[Place]
    seed: Seed
