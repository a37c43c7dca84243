"""
Closed forms: rescale factors from a formula, without any search.

They are the baselines that a search has to beat and the seeds that it starts from. `CLOSED_FORMS`
names them, `closed_form` is the way in. With s = target / original window, each gives one lambda
per pair and one attention factor. On a model that was fine-tuned with factors, s is counted from
the tuned window, turns are those of the tuned frequencies, and lambda multiplies the tuned one.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from longrope.errors import UserError, unknown_name
from longrope.factors import RescaleFactors, Rope, check_same_model
from longrope.windows import window_label

Form = tuple[np.ndarray, float]  # lambda of every pair, attention factor
CLOSED_FORMS: dict[str, Callable[..., Form]] = {}  # method -> function of a Stretch and options
SOURCES: dict[str, str] = {}  # method -> who published it
# What a method's name may say more: yarn-critical-c5, at critical pair 5; pi-n16, PI but the first
# 16 tokens left as they are.
DETAILS = r"(?:-c([1-9]\d*))?(?:-n(\d+))?"
NOISE = 1e-12  # how far rounding may push a lambda below 1


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a closed form computes from: an embedding, and how far to stretch it."""

    rope: Rope
    window: int  # tokens to stretch from: the original window, or the tuned one
    ratio: float  # s: target window over `window`
    tuned: np.ndarray  # the lambda that the model already has, 1 where it is not tuned

    @property
    def pairs(self) -> np.ndarray:
        """The index i of every pair, highest frequency first."""
        return np.arange(self.rope.pairs)

    @property
    def turns(self) -> np.ndarray:
        """How often each pair turns within the window; 0 for one that stands still."""
        period = 2 * math.pi * self.rope.theta ** (2 * self.pairs / self.rope.rotary_dim)
        return self.window / (period * self.tuned)

    def pair_that_turns(self, turns: float) -> float:
        """The first pair, as a fraction, that would make this few turns within the window.

        For an untuned embedding this is d/2 log_theta(window / (2 pi turns)), but not below 0.
        Tuned frequencies are interpolated by their logarithm, and go on past the last pair by
        their mean slope.
        """
        moving = np.flatnonzero(self.turns > 0)
        if not moving.size:
            return 0.0
        slowness = np.maximum.accumulate(-np.log(self.turns[moving]))  # a tuned one may fall
        wanted, rise = -math.log(turns), slowness[-1] - slowness[0]
        steps_per_rise = (moving[-1] - moving[0]) / rise if rise > 0 else 0.0
        beyond = max(wanted - slowness[-1], 0)
        return float(np.interp(wanted, slowness, moving) + beyond * steps_per_rise)


def closed_form(
    method: str, rope: Rope, window: int, *, on: RescaleFactors | None = None, **options
) -> RescaleFactors:
    """The factors that `method` gives for `window`, with the attention factor of its authors.

    `on` are the factors that a model was fine-tuned with: the result then multiplies their lambda
    and attention factor, keeps their n_hat, and is called `<method>-on-tuned`. Raises UserError
    for an unknown method or option, and for a window shorter than the one to stretch from (only
    `none` takes any). `METHOD-nK` leaves the first K tokens as they are (the paper's Table 2),
    `METHOD-cK` has its critical pair at K.
    """
    name, pair, n_hat = parts_of(method)
    if name not in CLOSED_FORMS:
        raise unknown_name("method", name, CLOSED_FORMS)
    form = CLOSED_FORMS[name]
    defaults = form.__kwdefaults__ or {}
    options |= {} if pair is None else {"critical_pair": pair}
    for option in options.keys() - defaults.keys():
        known = ", ".join(defaults) or "none"
        raise UserError(f"{method} has no option {option!r}: known are {known}")
    settings = defaults | options
    stretch = _stretch(rope, window, on)
    if stretch.ratio < 1 and name != "none":
        raise UserError(
            f"window {window_label(window)}: {method} stretches from"
            f" {window_label(stretch.window)} and cannot shrink; ask for at least that window,"
            " or search recovery factors for a shorter one"
        )
    factors, attention = form(stretch, **settings)
    factors = np.where((factors < 1) & (factors >= 1 - NOISE), 1.0, factors)
    options = {option: value for option, value in settings.items() if value is not None}
    provenance = {"formula": name, "options": options, "source": SOURCES[name]}
    if on is not None:
        provenance["on"] = {"method": on.method, "window": on.window}
    return RescaleFactors(
        rope=rope,
        window=window,
        method=method if on is None else f"{method}-on-tuned",
        lambda_=tuple((factors * stretch.tuned).tolist()),
        n_hat=on.n_hat if on is not None and n_hat is None else n_hat or 0,
        attention_factor=attention * (1.0 if on is None else on.attention_factor),
        provenance=provenance,
    )


def is_closed_form(method: str) -> bool:
    """Whether it names a closed form, with a critical pair or an n_hat of its own or without."""
    name, pair, _ = parts_of(method)
    known = CLOSED_FORMS.get(name)
    return known is not None and (pair is None or "critical_pair" in (known.__kwdefaults__ or {}))


def parts_of(method: str) -> tuple[str, int | None, int | None]:
    """The closed form that a name means, its critical pair and its n_hat where it says them."""
    form, *numbers = re.fullmatch(f"(.+?){DETAILS}", method).groups()
    pair, n_hat = (None if each is None else int(each) for each in numbers)
    return form, pair, n_hat


def theoretical_critical_pair(rope: Rope, on: RescaleFactors | None = None) -> int:
    """The first pair that does not complete a turn within the window; at least 1.

    ceil(d/2 log_theta(L / 2 pi)) (LongRoPE2, eq. 7, in pairs); one past the last pair or more if
    every pair does. With `on`, of the tuned frequencies in the tuned window.
    """
    start = rope.original_window if on is None else on.window
    return _critical_pair(_stretch(rope, start, on))


def turns_within(rope: Rope, on: RescaleFactors | None = None) -> np.ndarray:
    """How often every pair (pairs,) turns within the window that is stretched.

    That is the original window, or with `on` the tuned one, at the tuned frequencies.
    """
    return _stretch(rope, rope.original_window if on is None else on.window, on).turns


def _form(method: str, source: str) -> Callable:
    """Enter the decorated function as the closed form `method`."""

    def enter(function: Callable) -> Callable:
        CLOSED_FORMS[method], SOURCES[method] = function, source
        return function

    return enter


@_form("none", "Su et al. 2021, arXiv 2104.09864")
def none(stretch: Stretch) -> Form:
    """The embedding as it is, at any window: lambda = 1."""
    return np.ones(stretch.rope.pairs), 1.0


@_form("pi", "Chen et al. 2023, arXiv 2306.15595")
def position_interpolation(stretch: Stretch) -> Form:
    """lambda = s for every pair."""
    return np.full(stretch.rope.pairs, stretch.ratio), 1.0


@_form("ntk", "bloc97 2023, as in Peng et al. 2023, arXiv 2309.00071")
def ntk(stretch: Stretch) -> Form:
    """lambda = s^(2i/(d-2)): nothing for the first pair, s for the last.

    Dynamic NTK is this with the s of each length: one table of factors per length.
    """
    return stretch.ratio ** (2 * stretch.pairs / _dimensions_but_two(stretch)), 1.0


@_form("theta", "Xiong et al. 2023, arXiv 2309.16039; Liu et al. 2023, arXiv 2310.05209")
def raised_base(stretch: Stretch, *, theta_new: float | None = None) -> Form:
    """lambda = (theta_new / theta)^(2i/d).

    Without `theta_new` the base is theta^(ln(target / 2 pi) / ln(L / 2 pi)): what completed one
    turn within L completes one within the target (Liu et al., theorem 2), lambda = s^(i/c) for the
    pair c, as a fraction, that did (at least 1). A given base stays the same at any window.
    """
    theta, dim = stretch.rope.theta, stretch.rope.rotary_dim
    if theta_new is None:
        return stretch.ratio ** (stretch.pairs / max(1.0, stretch.pair_that_turns(1))), 1.0
    _require_rising(theta_new=theta_new)
    if theta_new < theta:
        raise UserError(f"theta_new = {theta_new}: must not be below the model's theta, {theta}")
    return (theta_new / theta) ** (2 * stretch.pairs / dim), 1.0


@_form("yarn", "Peng et al. 2023, arXiv 2309.00071")
def yarn(stretch: Stretch, *, beta_fast: float = 32, beta_slow: float = 1) -> Form:
    """1 for pairs of more than `beta_fast` turns, s for less than `beta_slow`, a ramp between.

    The ramp mixes inverse frequencies, is linear in the pair, and its ends are rounded outwards
    to whole pairs, as in the authors' code and in transformers.
    """
    _require_rising(beta_slow=beta_slow, beta_fast=beta_fast)
    high = min(math.ceil(stretch.pair_that_turns(beta_slow)), stretch.rope.rotary_dim - 1)
    low = math.floor(stretch.pair_that_turns(beta_fast))
    return _interpolated(_ramp(stretch, low, high), stretch.ratio), _yarn_attention(stretch)


@_form("llama3", "Llama 3.1 (Meta 2024), rope_type llama3 of transformers")
def llama3(stretch: Stretch, *, low: float = 1, high: float = 4) -> Form:
    """1 for pairs of more than `high` turns, s for less than `low`, between them by turns.

    The model itself has s = 8. Like YaRN it mixes inverse frequencies.
    """
    _require_rising(low=low, high=high)
    share = np.clip((high - stretch.turns) / (high - low), 0, 1)
    return _interpolated(share, stretch.ratio), 1.0


@_form("ntk-critical", "Shang et al. 2025 (LongRoPE2), arXiv 2502.20082, algorithm 1")
def ntk_critical(
    stretch: Stretch, *, critical_pair: int | None = None, capped: bool = True
) -> Form:
    """lambda = s^(i/c) up to the critical pair c, and s from there: LongRoPE2's start, s' = s.

    With `capped` false lambda goes on rising past c, which is a plain change of base: at the
    theoretical pair what LongRoPE2 compares with as NTK, at the real one as NTK-rcd.
    """
    share = stretch.pairs / _critical_pair(stretch, critical_pair)
    return stretch.ratio ** (np.minimum(share, 1) if capped else share), 1.0


@_form("yarn-critical", "Shang et al. 2025 (LongRoPE2), arXiv 2502.20082, section 4.3")
def yarn_critical(
    stretch: Stretch, *, critical_pair: int | None = None, beta_fast: float = 32
) -> Form:
    """YaRN whose ramp ends at the critical pair: s from there.

    At the theoretical critical pair this is YaRN itself; the real one is a few pairs lower.
    """
    _require_rising(beta_fast=beta_fast)
    high = min(_critical_pair(stretch, critical_pair), stretch.rope.rotary_dim - 1)
    low = min(math.floor(stretch.pair_that_turns(beta_fast)), high - 1)
    return _interpolated(_ramp(stretch, low, high), stretch.ratio), _yarn_attention(stretch)


@_form("mrrope-pro", "Tian et al. 2026, arXiv 2601.22181")
def mrrope_pro(stretch: Stretch) -> Form:
    """MrRoPE-Pro: lambda = s^(q(q+1)/(n(n+1))) at step q of n; YaRN's attention factor."""
    q, n = _steps(stretch)
    return stretch.ratio ** (q * (q + 1) / (n * (n + 1))), _yarn_attention(stretch)


@_form("mrrope-uni", "Tian et al. 2026, arXiv 2601.22181")
def mrrope_uni(stretch: Stretch) -> Form:
    """MrRoPE-Uni: lambda = s^(q/n) at step q of n; YaRN's attention factor."""
    q, n = _steps(stretch)
    return stretch.ratio ** (q / n), _yarn_attention(stretch)


@_form("cope", "Li et al. 2026, arXiv 2602.05258")
def cope(stretch: Stretch, *, tapered: int | None = None) -> Form:
    """The inverse frequencies of the last `tapered` pairs fade to 0 along a cosine.

    The first of them is untouched, the last stands still. The default is the share of the released
    code, 20 of 64 pairs. It does not depend on the window, and was published with training.
    """
    pairs = stretch.rope.pairs
    if tapered is None:
        tapered = max(2, round(pairs * 20 / 64))
    if not (isinstance(tapered, int) and 2 <= tapered <= pairs):
        raise UserError(f"tapered = {tapered!r}: must be a whole number from 2 to {pairs} pairs")
    factors = np.ones(pairs)
    with np.errstate(divide="ignore"):
        factors[-tapered:] = 2 / (1 + np.cos(np.linspace(0, math.pi, tapered)))
    return factors, 1.0


@_form("drope", "Gelberg et al. 2025, arXiv 2512.12167")
def drope(stretch: Stretch) -> Form:
    """No rotation at all: lambda = inf. Published with a short recalibration of the model."""
    return np.full(stretch.rope.pairs, math.inf), 1.0


def _stretch(rope: Rope, window: int, on: RescaleFactors | None) -> Stretch:
    if on is None:
        start, tuned = rope.original_window, np.ones(rope.pairs)
    else:
        check_same_model(on.rope, rope)
        start, tuned = on.window, np.array(on.lambda_, dtype=float)
    return Stretch(rope=rope, window=start, ratio=window / start, tuned=tuned)


def _ramp(stretch: Stretch, low: int, high: int) -> np.ndarray:
    """0 up to pair `low`, 1 from pair `high`; a step if nothing lies between."""
    return np.clip((stretch.pairs - low) / max(high - low, 0.001), 0, 1)


def _interpolated(share: np.ndarray, ratio: float) -> np.ndarray:
    """lambda of the inverse frequency (1 - share) + share / s; exact at both ends."""
    return ratio / (share + (1 - share) * ratio)


def _yarn_attention(stretch: Stretch) -> float:
    """YaRN's attention factor, for cos and sin alike: 0.1 ln s + 1."""
    return 0.1 * math.log(stretch.ratio) + 1


def _steps(stretch: Stretch) -> tuple[np.ndarray, int]:
    """MrRoPE's q of every pair, and n: steps from the last pair of more than 32 turns to the first
    of less than 1; from -1 if there is none, and to one past the end.
    """
    high = int(np.append(np.flatnonzero(stretch.turns < 1), stretch.rope.pairs)[0])
    low = int(np.append(-1, np.flatnonzero(stretch.turns[:high] > 32))[-1])
    return np.clip(stretch.pairs - low, 0, high - low), high - low


def _critical_pair(stretch: Stretch, given: int | None = None) -> int:
    """The critical pair that is given, else the theoretical one."""
    if given is None:
        return max(1, math.ceil(stretch.pair_that_turns(1)))
    if not (isinstance(given, int) and 1 <= given < stretch.rope.pairs):
        last = stretch.rope.pairs - 1
        raise UserError(f"critical_pair = {given!r}: must be a whole number from 1 to {last}")
    return given


def _dimensions_but_two(stretch: Stretch) -> int:
    if stretch.rope.rotary_dim < 4:
        raise UserError("NTK needs at least 2 pairs: this model has rotary_dim 2, use pi")
    return stretch.rope.rotary_dim - 2


def _require_rising(**numbers: float) -> None:
    """Raise UserError unless the options are numbers, each above the one before, all above 0."""
    bound, least = "0", 0.0
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not least < value < math.inf:
            raise UserError(f"{name} = {value!r}: must be a number above {bound}")
        bound, least = f"{name} = {value}", value
