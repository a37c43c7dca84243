"""The search: optimisers, spaces, fitness, budgets."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from longrope.config.base import Count, Name, Positive, Settings, Share, Window


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
    # Random smooth candidates beside the starts; with 0 none later either.
    ramps: Annotated[int, Field(ge=0)] = 24
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
    pair: Literal["searched", "theoretical"] | Count = (
        "searched"  # or its number, at least 1, counted from 0
    )
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
