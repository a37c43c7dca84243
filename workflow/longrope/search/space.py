"""
What a search may propose, and how a point of it becomes factors.

A candidate is n_hat and one multiplier mu a pair, in hundredths (the paper's step of 0.01), so
that equal candidates are equal numbers. A first search and a recovery set lambda = mu. A second
search multiplies the factors that the model was fine-tuned with: lambda_i = lambda_i(tuned) mu_i,
as all but one of the tables that the paper's authors published do.

Two spaces. `paper` (Table 4): every pair is free in [1, 1.25 s], mu does not decrease. `critical`
(LongRoPE2): pairs from the critical one up are free in [s, 2 s], and mu_i = mu_c^(i/c) below it.
Where the attention factor is searched too, it is one more number of a candidate.

Optimisers that work on real vectors use `encode` and `decode`: every point means a candidate that
keeps the constraint, because log mu is a running sum of steps that count as 0 where they fall.
"""

import math
from dataclasses import dataclass

import numpy as np

from longrope.baselines import theoretical_critical_pair, turns_within
from longrope.config.search import SpaceSettings
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope

STEP = 100  # grid points to 1.0
N_HATS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)  # Table 4
MARGIN = 1.25  # lambda reaches up to 1.25 s
CRITICAL_MARGIN = 2.0  # and in the critical space up to 2 s
ATTENTION = (90, 200)  # least and largest attention factor that is searched, in hundredths
N_HAT_SCALE = 10.0  # places in n_hat's list to one unit of its coordinate
PAIR_SCALE = 10.0  # pairs to one unit of the critical pair's coordinate


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point of the search space."""

    n_hat: int
    mu: tuple[int, ...]  # hundredths, one a pair, highest frequency first
    attention: int | None = None  # hundredths, where it is searched
    critical: int = 0  # pairs below this one are derived; 0: none is


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The space of one search."""

    rope: Rope
    window: int  # the target
    ratio: float  # s: how far this search stretches
    upper: int  # largest mu, in hundredths
    base: tuple[float, ...]  # what mu multiplies: ones, or the tuned lambda
    turns: tuple[float, ...]  # of every pair within the window that is stretched
    monotone: bool = True  # mu does not decrease
    n_hats: tuple[int, ...] = N_HATS
    criticals: tuple[int, ...] = (0,)  # what the critical pair may be
    attention_factor: float | None = 1.0  # of every candidate; None: it is searched
    attention_base: float = 1.0  # what a searched one multiplies
    n_hat: int = 0  # of candidates that nothing says more of: 0, or the tuned one

    @property
    def searches_attention(self) -> bool:
        """Whether the attention factor is part of a candidate."""
        return self.attention_factor is None

    def bounds(self, critical: int) -> tuple[int, int]:
        """Least and largest mu of a free pair, in hundredths."""
        if not critical:
            return STEP, self.upper
        return round(self.ratio * STEP), round(CRITICAL_MARGIN * self.ratio * STEP)

    def snap(
        self, mu, n_hat: int, attention: float | None = None, critical: int | None = None
    ) -> Candidate:
        """The candidate that numbers of any kind mean: rounded to the grid, clipped to the bounds,
        and where mu must not fall, raised to the largest before it (a running maximum).

        mu (one a pair) and the attention factor are plain numbers, not hundredths.
        """
        critical = self.criticals[0] if critical is None else critical
        critical = min(self.criticals, key=lambda each: abs(each - critical))
        nearest = min(self.n_hats, key=lambda each: abs(each - n_hat))
        attention = 1.0 if attention is None else attention
        mu_1P = np.asarray(mu, dtype=float)[None]
        return self._snapped(mu_1P, [nearest], np.array([attention]), np.array([critical]))[0]

    def _snapped(self, mu_MP, n_hats, attention_M, critical_M) -> list[Candidate]:
        """Candidates from numbers off the grid; n_hat and the critical pair are allowed ones."""
        grid_MP = np.rint(mu_MP * STEP)
        low_M, high_M = np.array([self.bounds(each) for each in critical_M]).T
        free_MP = np.arange(grid_MP.shape[1]) >= critical_M[:, None]
        grid_MP = np.where(free_MP, np.clip(grid_MP, low_M[:, None], high_M[:, None]), low_M[0])
        if self.monotone:
            grid_MP = np.maximum.accumulate(grid_MP, axis=1)
        if critical_M.any():
            first_M1 = np.take_along_axis(grid_MP, critical_M[:, None], 1) / STEP
            share_MP = np.arange(grid_MP.shape[1]) / np.maximum(critical_M, 1)[:, None]
            grid_MP = np.where(free_MP, grid_MP, np.rint(first_M1**share_MP * STEP))
        attentions = [None] * len(grid_MP)
        if self.searches_attention:
            attentions = np.clip(np.rint(attention_M * STEP), *ATTENTION).astype(int).tolist()
        rows = zip(n_hats, grid_MP.astype(int).tolist(), attentions, critical_M, strict=True)
        return [
            Candidate(int(n_hat), tuple(mu), attention, int(critical))
            for n_hat, mu, attention, critical in rows
        ]

    def candidate(self, factors: RescaleFactors, attention: float | None = None) -> Candidate:
        """The candidate that given factors snap to; `attention` instead of theirs."""
        mu = [
            self.upper / STEP if math.isinf(value) else value / base
            for value, base in zip(factors.lambda_, self.base, strict=True)
        ]
        own = factors.attention_factor / self.attention_base
        return self.snap(mu, factors.n_hat, own if attention is None else attention)

    def factors(self, candidate: Candidate, method: str, provenance: dict) -> RescaleFactors:
        """What a candidate means for the model."""
        lambda_ = tuple(
            round(base * mu / STEP, 10) for base, mu in zip(self.base, candidate.mu, strict=True)
        )
        attention_factor = self.attention_factor
        if attention_factor is None:
            attention_factor = round(self.attention_base * candidate.attention / STEP, 10)
        return RescaleFactors(
            rope=self.rope,
            window=self.window,
            method=method,
            lambda_=lambda_,
            n_hat=candidate.n_hat,
            attention_factor=attention_factor,
            provenance=provenance,
        )

    # --- as vectors -------------------------------------------------------------------------

    def encode(self, candidates: list[Candidate]) -> np.ndarray:
        """Vectors (M, D) that decode to the candidates.

        First a step of log mu for every pair, in nats (log mu itself if it may fall); then, where
        they are searched, n_hat, the logarithm of the attention factor and the critical pair.
        """
        logs_MP = np.log(np.array([each.mu for each in candidates]) / STEP)
        critical_M = np.array([each.critical for each in candidates])
        if self.monotone:
            pairs = np.arange(logs_MP.shape[1])
            # Steps are counted from 1, and in the critical space from s at the critical pair.
            start = math.log(self.bounds(1)[0] / STEP) if critical_M.any() else 0.0
            logs_MP = np.where(pairs < critical_M[:, None], start, logs_MP)
            logs_MP = np.diff(logs_MP, prepend=start, axis=1)
        columns = []
        if len(self.n_hats) > 1:
            place = {n_hat: number for number, n_hat in enumerate(self.n_hats)}
            columns.append([place[each.n_hat] / N_HAT_SCALE for each in candidates])
        if self.searches_attention:
            columns.append([math.log(each.attention / STEP) for each in candidates])
        if len(self.criticals) > 1:
            columns.append(critical_M / PAIR_SCALE)
        return np.column_stack([logs_MP, *columns])

    def decode(self, points_MD: np.ndarray) -> list[Candidate]:
        """The candidates that vectors (M, D) mean."""
        points_MD = np.asarray(points_MD, dtype=float)
        pairs = self.rope.pairs
        steps_MP, rest = points_MD[:, :pairs], list(points_MD[:, pairs:].T)
        n_hats = np.full(len(points_MD), self.n_hats[0])
        attention_M = np.ones(len(points_MD))
        critical_M = np.full(len(points_MD), self.criticals[0])
        if len(self.n_hats) > 1:
            places = np.rint(np.clip(rest.pop(0), 0, 9) * N_HAT_SCALE).astype(int)
            n_hats = np.array(self.n_hats)[np.minimum(places, len(self.n_hats) - 1)]
        if self.searches_attention:
            attention_M = np.exp(np.clip(rest.pop(0), -1, 1))
        if len(self.criticals) > 1:
            wanted = np.abs(rest.pop(0)[:, None] * PAIR_SCALE - np.array(self.criticals))
            critical_M = np.array(self.criticals)[wanted.argmin(1)]
        logs_MP = steps_MP
        if self.monotone:
            derived = np.arange(pairs) < critical_M[:, None]
            logs_MP = np.cumsum(np.where(derived, 0.0, np.maximum(steps_MP, 0.0)), axis=1)
        if critical_M.any():
            logs_MP = logs_MP + math.log(self.bounds(1)[0] / STEP)
        mu_MP = np.exp(np.clip(logs_MP, -50, 50))
        return self._snapped(mu_MP, n_hats, attention_M, critical_M)

    def ramp(self, rng: np.random.Generator) -> Candidate:
        """A random smooth candidate: log mu rises from 0 to about log s between two numbers of
        turns, straight or bent. YaRN, MrRoPE and Llama-3.1's factors are close to such ramps.
        """
        fast, slow = np.exp(rng.uniform(np.log([2.0, 0.25]), np.log([40.0, 1.6])))
        bend, top = np.exp(rng.uniform(-1.0, 1.0)), rng.uniform(0.85, 1.1)
        turns = np.maximum(self.turns, 1e-9)
        share = np.clip(np.log(fast / turns) / np.log(fast / slow), 0, 1) ** bend
        mu = np.exp(top * math.log(self.ratio) * share)
        return self.snap(mu, self.n_hat, self.random_attention(rng), self.random_critical(rng))

    def random(self, rng: np.random.Generator) -> Candidate:
        """A uniformly random candidate (the paper's search without its initial population)."""
        critical = self.random_critical(rng)
        low, high = self.bounds(critical)
        mu = rng.integers(low, high + 1, size=self.rope.pairs) / STEP
        if self.monotone:
            mu = np.sort(mu)
        n_hat = int(rng.choice(self.n_hats))
        return self.snap(mu, n_hat, self.random_attention(rng), critical)

    def random_attention(self, rng: np.random.Generator) -> float | None:
        """An attention factor from 1 to somewhat above YaRN's, where it is searched."""
        if not self.searches_attention:
            return None
        return 1 + rng.uniform(0, 1.3) * 0.1 * math.log(max(self.ratio, math.e))

    def random_critical(self, rng: np.random.Generator) -> int:
        """A critical pair that is allowed."""
        if len(self.criticals) == 1:
            return self.criticals[0]
        return int(rng.choice(self.criticals))


def first_space(rope: Rope, window: int, settings: SpaceSettings, **attention) -> SearchSpace:
    """Absolute factors up to 1.25 s, s = window / original window (Table 4)."""
    ratio = window / rope.original_window
    return _space(rope, None, window, ratio, MARGIN * ratio, settings, attention)


def second_space(
    tuned: RescaleFactors, window: int, settings: SpaceSettings, **attention
) -> SearchSpace:
    """Multipliers up to 1.25 s' on tuned factors, s' = window / tuned window."""
    ratio = window / tuned.window
    return _space(tuned.rope, tuned, window, ratio, MARGIN * ratio, settings, attention)


def recovery_space(
    tuned: RescaleFactors, window: int, settings: SpaceSettings, **attention
) -> SearchSpace:
    """Absolute factors up to the largest tuned lambda, for a short window of a tuned model."""
    largest = max([1.0, *[value for value in tuned.lambda_ if math.isfinite(value)]])
    return _space(tuned.rope, None, window, largest, largest, settings, attention)


def _space(
    rope: Rope,
    on: RescaleFactors | None,
    window: int,
    ratio: float,
    upper: float,
    settings: SpaceSettings,
    attention: dict,
) -> SearchSpace:
    turns = turns_within(rope, on)
    criticals = (0,)
    if settings.kind == "critical":
        theoretical = min(theoretical_critical_pair(rope, on), rope.pairs - 1)
        criticals = _criticals(settings.pair, theoretical, turns)
    return SearchSpace(
        rope=rope,
        window=window,
        ratio=ratio,
        upper=max(STEP, round(upper * STEP)),
        base=on.lambda_ if on else (1.0,) * rope.pairs,
        turns=tuple(turns.tolist()),
        monotone=settings.monotone,
        n_hat=on.n_hat if on else 0,
        n_hats=N_HATS if "n_hat" in settings.vary else (on.n_hat if on else 0,),
        criticals=criticals,
        **attention,
    )


def _criticals(pair: str | int, theoretical: int, turns: np.ndarray) -> tuple[int, ...]:
    """The critical pairs that are allowed; LongRoPE2 tries those from the first pair of at most
    ten turns up to the theoretical one.
    """
    if pair == "searched":
        first = int(np.clip(np.count_nonzero(turns > 10), 1, theoretical))
        return tuple(range(first, theoretical + 1))
    if pair == "theoretical":
        return (theoretical,)
    if int(pair) >= len(turns):
        raise UserError(f"space.pair = {pair}: the model's last pair is {len(turns) - 1}")
    return (int(pair),)
