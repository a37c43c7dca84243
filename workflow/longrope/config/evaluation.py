"""
What is measured, and in which tables and figures it is shown.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from longrope.config.base import Count, Name, Settings, Window
from longrope.windows import window_label


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
    corpus: Name | None = None  # whose test documents; null: the model's corpus
    # For each length, how many windows; they are spread over the test documents, not overlapping.
    windows: dict[Window, Count] = Field(min_length=1)
    # Tokens between two windows of a document's stretch. null: windows do not overlap and all of
    # their tokens are scored. A number: after the first window only the last so many tokens of
    # each are scored, each token once (the paper uses 256: at 128k, 512 times the cost); windows
    # shorter than it do not overlap.
    stride: Window | None = None
    # The same documents at every length: the first so many, of those of at least so many tokens.
    documents: Count | None = None
    at_least: Window | None = None
    # Where a document's windows are: in its middle, or one at its start (`truncate`: what the
    # released scripts of LongRoPE and YaRN measure).
    mode: Literal["stride", "truncate"] = "stride"
    methods: Methods = {}
    shown_in: list[PerplexityShown] = [
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
    shown_in: list[PasskeyShown] = ["passkey", "fitness", "summary", "figure4", "depths"]

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
    # The longest sequence, a question with its examples and an answer: longer ones are refused.
    # Each sequence has the factors of its own length.
    window: Window
    # At most so many of each benchmark, at least 2; null: all. From the hub the harness limits each
    # of MMLU's 57 subjects, so there it is 57 times a 57th, rounded up: 100 are 114, 2 are 57.
    questions: Questions | None = None
    shots: Annotated[int, Field(ge=0)] | None = None  # examples; null: as many as the paper
    # A folder that `longrope fetch-benchmarks` made; null: the harness fetches from the hub.
    files: str | None = None
    methods: Methods = {}
    shown_in: list[BenchmarksShown] = ["table08"]

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
    shown_in: list[RulerShown] = ["passkey"]

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
    seed: int


class BenchmarksStage(Settings):
    """Stage slice of `evaluate_benchmarks`, for one method of one checkpoint."""

    evaluation: Name
    method: Name
    window: Window
    shots: dict[Benchmark, int]  # benchmark -> examples before each question
    questions: Questions | None = None
    files: str | None = None


class RulerStage(Settings):
    """Stage slice of `evaluate_ruler`, for one method of one checkpoint."""

    evaluation: Name
    method: Name
    needles: list[Needle]
    prompts: dict[Window, Count]
    haystack: list[str]
    seed: int
