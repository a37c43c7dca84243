"""The search: optimisers, spaces, fitness, budgets."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from longrope.config.base import Count, Name, Positive, Seed, Settings, Share, Window


def _some(starts: list[str]) -> list[str]:
    if not starts:
        raise ValueError("only the paper's evolution searches without a start")
    return starts


class Starting(Settings):
    """What every optimiser is told of where to begin."""

    starts: Annotated[list[Name], AfterValidator(_some)] = [
        "pi", "ntk", "yarn", "mrrope-pro", "llama3",
    ]  # fmt: skip
    """Closed forms to begin from, at least one."""
    warm: bool = True
    """Also let them stretch the factors of the window before, where there are any."""


class Evolution(Starting):
    """The paper's search (Algorithm 1), with the paper's numbers (Table 4)."""

    name: Literal["evolution"]
    population: Annotated[int, Field(ge=4)] = 64
    """P: candidates to begin with."""
    mutations: Count = 16
    """N1: mutants a generation."""
    crossovers: Count = 16
    """N2: children of two parents a generation."""
    mutate_probability: Share = 0.3
    """p: with which a factor of a mutant changes."""
    parents: Annotated[int, Field(ge=2)] = 32
    """k: the best so far, from which the next generation comes."""
    starts: list[Name] = ["pi", "ntk", "yarn"]
    """Closed forms in the initial population; `[]`: it is drawn at random."""
    warm: bool = False
    """Also let them stretch the factors of the window before, where there are any; not in the
    paper."""
    racing: bool = False
    """Score documents one after the other, and drop candidates that are clearly worse on the first
    ones."""

    @model_validator(mode="after")
    def _check(self):
        if self.parents > self.population:
            raise ValueError(f"parents {self.parents} must not exceed population {self.population}")
        return self


class Cma(Starting):
    """CMA-ES over the logarithms of lambda's increments, started from the best closed form."""

    name: Literal["cma"]
    population: Annotated[int, Field(ge=4)] = 12
    """Candidates a generation."""
    sigma: Positive = 0.08
    """First size of a step, in nats of lambda."""


class Bayesian(Starting):
    """A Gaussian process over scores on single documents, around the best candidate."""

    name: Literal["bayesian"]
    sigma: Positive = 0.08
    """Size of a step around the best, in nats of lambda."""
    batch: Count = 4
    """Candidates a generation."""
    ramps: Annotated[int, Field(ge=0)] = 24
    """Random smooth candidates to begin with, beside the starts; 0: none later either."""
    check_every: Annotated[int, Field(ge=2)] = 8
    """Generations between two scores on all documents."""
    finalists: Count = 3
    """Candidates that are scored on all documents at the end."""


OptimiserSettings = Annotated[Evolution | Cma | Bayesian, Field(discriminator="name")]


class PaperSpace(Settings):
    """Table 4 of the paper: every pair in [1, 1.25 s], n_hat of a list."""

    kind: Literal["paper"] = "paper"
    monotone: bool = True
    """lambda does not decrease from pair to pair."""
    vary: list[Literal["lambda", "n_hat"]] = Field(default=["lambda", "n_hat"], min_length=1)
    """What is searched. `[lambda]` keeps n_hat as it is, 0 or the tuned one (the paper's Table 1);
    `[n_hat]` tries every n_hat on every start (Table 2)."""


class CriticalSpace(Settings):
    """LongRoPE2's space: pairs from the critical one up in [s, 2 s], those below derived.

    It has LongRoPE2's starts (every critical pair, at s and above) instead of the optimiser's."""

    kind: Literal["critical"]
    pair: Literal["searched", "theoretical"] | Count = "searched"
    """The critical pair, or its number, counted from 0."""
    monotone: Literal[True] = True
    """lambda does not decrease from pair to pair."""
    vary: list[Literal["lambda", "n_hat"]] = Field(default=["lambda"], min_length=1)
    """What is searched."""


SpaceSettings = Annotated[PaperSpace | CriticalSpace, Field(discriminator="kind")]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Fitness(Settings):
    """What a search minimises: a weighted sum of mean losses, each in nats a token.

    A weight of 0 leaves a measure out."""

    perplexity: Weight = 1.0
    """Weight of all tokens of the validation windows: the paper's fitness."""
    needle: Weight = 0.0
    """Weight of the answers to passkeys hidden in documents of the window's length, at depths that
    cover it evenly."""
    long_tokens: Weight = 0.0
    """Weight of those tokens that the long context helps, by LongPPL's two criteria, `helped_by`
    and `known_below`."""
    needles: Count = 1
    """Passkey documents that go with every validation document."""
    helped_by: Positive = 2.0
    """Nats: so much lower must the loss of such a token be after the whole window than after the
    window that the weights were made for."""
    known_below: Positive = 2.0
    """Nats that such a token may cost at most after the whole window."""
    long_with: Name = "yarn"
    """The closed form whose factors choose those tokens, once."""

    @model_validator(mode="after")
    def _check(self):
        if not self.perplexity + self.needle + self.long_tokens:
            raise ValueError("a fitness needs a weight above 0")
        return self

    def without_long_tokens(self) -> "Fitness":
        """The same for short windows; perplexity if nothing else is left."""
        perplexity = self.perplexity or float(not self.needle)
        return self.model_copy(update={"long_tokens": 0.0, "perplexity": perplexity})


SearchedAttention = Literal["none", "su", "yarn", "search"] | Positive


FINDS = 6  # candidates that a search scores, or more, which is to find something


class Budget(Settings):
    """What one window's search may spend.

    In tokens forwarded: `evaluations` x `documents` x window, times 1 + `needles` where the fitness
    has them. The paper spends 64 + 40 x 32 = 1344 evaluations on 5 documents."""

    evaluations: Count
    """Scores on one window of each of the documents, at most. An optimiser that scores on single
    documents makes as many candidates more of it. None is scored twice on a document."""
    documents: Count = 5
    """Validation documents."""
    optimiser: OptimiserSettings | None = None
    """Another for this window; `null`: the model's own."""

    @property
    def scores(self) -> int:
        """The budget in scores on one document."""
        return self.evaluations * self.documents


class Variant(Settings):
    """The searches of a model once more, with something changed; to compare, or to tune with."""

    windows: list[Window] | None = None
    """Some of `search` and `extension.search`; `null`: those of `search`."""
    seeds: list[Seed] = []
    """Repeats the search with each, as `search-NAME-seed1`, …"""
    budget: Budget | None = None
    """`null`: the windows' own."""
    optimiser: OptimiserSettings | None = None
    """`null`: the model's own."""
    space: SpaceSettings | None = None
    """`null`: the model's own."""
    fitness: Fitness | None = None
    """`null`: the model's own."""
    attention_factor: SearchedAttention | None = None
    """`null`: the model's own."""


class SearchSettings(Settings):
    """Stage slice of `search_factors`, for one window."""

    window: Window
    budget: Budget
    optimiser: OptimiserSettings
    space: SpaceSettings = PaperSpace()
    fitness: Fitness = Fitness()
    attention_factor: SearchedAttention = "none"
    seed: Seed
