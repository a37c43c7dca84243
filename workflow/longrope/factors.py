"""
The rescale factors that LongRoPE searches for, and the one file format they live in.

A rotary model turns pair i of token n by the angle n / theta^(2i/d). To reach a longer window,
LongRoPE divides that angle by lambda_i, except for the first n_hat tokens (Ding et al. 2024,
eq. 3). Only this module checks the invariants: elsewhere a `RescaleFactors` is valid. It imports
nothing heavy.
"""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

from longrope.errors import UserError
from longrope.files import read_json, write_checked
from longrope.windows import LONGEST, window_label

SCHEMA = 1  # of factors.json
MADE = "if the workflow made it, delete it and run that again"  # where it is damaged


@dataclass(frozen=True, slots=True)
class Rope:
    """The rotary position embedding of one pre-trained model, before anything rescales it."""

    model: str  # its name in the configuration
    theta: float  # base of the frequencies theta^(-2i/d)
    rotary_dim: int  # d: how many dimensions of a head turn, two to a pair
    original_window: int  # tokens the model was pre-trained for
    fingerprint: str  # hash of the pre-trained weights; tuned weights keep that of their base

    @property
    def pairs(self) -> int:
        """How many pairs turn: the length of every lambda."""
        return self.rotary_dim // 2

    def __post_init__(self) -> None:
        if not (_number(self.theta) and 1 < self.theta < math.inf):
            raise UserError(f"rope_theta = {self.theta!r}: must be a finite number above 1")
        if not (_whole(self.rotary_dim) and self.rotary_dim >= 2 and self.rotary_dim % 2 == 0):
            raise UserError(f"rotary_dim = {self.rotary_dim!r}: must be even and at least 2")
        if not (_whole(self.original_window) and 0 < self.original_window <= LONGEST):
            raise UserError(
                f"original_window = {_shown(self.original_window)}: must be a positive number of"
                " tokens"
            )
        for name in ("model", "fingerprint"):
            if not isinstance(value := getattr(self, name), str):
                raise UserError(f"{name} = {value!r}: must be a text")


@dataclass(frozen=True, slots=True)
class RescaleFactors:
    """How to stretch one model's RoPE to one window."""

    rope: Rope  # the embedding that they stretch
    window: int  # target context length, in tokens
    method: str  # what made them: search, recovery, yarn, ...
    lambda_: tuple[float, ...]  # one per pair, highest frequency first; 1 = untouched, inf = still
    n_hat: int = 0  # this many leading tokens keep their original angles
    attention_factor: float = 1.0  # multiplies cos and sin, as in transformers
    provenance: dict = field(default_factory=dict, compare=False)  # where they come from

    def __post_init__(self) -> None:
        if len(self.lambda_) != self.rope.pairs:
            raise UserError(
                f"lambda has {len(self.lambda_)} factors, the model {self.rope.model!r} needs"
                f" {self.rope.pairs} (rotary_dim / 2)"
            )
        for pair, value in enumerate(self.lambda_):
            if not _number(value) or value < 1:
                raise UserError(
                    f"lambda[{pair}] = {_shown(value)}: every factor is a number >= 1 (or inf)"
                )
        if not (_whole(self.window) and 0 < self.window <= LONGEST):
            raise UserError(f"window = {_shown(self.window)}: must be a positive number of tokens")
        if not isinstance(self.method, str):
            raise UserError(f"method = {self.method!r}: must be a text")
        if not (_whole(self.n_hat) and 0 <= self.n_hat <= LONGEST):
            raise UserError(f"n_hat = {_shown(self.n_hat)}: must be a whole number >= 0")
        if not (_number(self.attention_factor) and 0 < self.attention_factor < math.inf):
            raise UserError(f"attention_factor = {self.attention_factor!r}: must be above 0")
        if not isinstance(self.provenance, dict):
            raise UserError(f"provenance = {self.provenance!r}: must be an object")

    @property
    def ratio(self) -> float:
        """The extension ratio s: target window over original window."""
        return self.window / self.rope.original_window

    @property
    def is_identity(self) -> bool:
        """Whether they leave the model exactly as it is."""
        return self.attention_factor == 1 and all(value == 1 for value in self.lambda_)

    @property
    def unbeaten_start(self) -> str | None:
        """The start that a search ended with, as no candidate of its own was better."""
        return own_start(self.provenance.get("best_is_start"))

    @property
    def origin(self) -> str:
        """What made them, for people: `search`, or `search: none better than its start 'yarn'`."""
        if start := self.unbeaten_start:
            return f"{self.method}: none better than its start {start!r}"
        return self.method


def read_factors(path: Path, rope: Rope | None = None) -> RescaleFactors:
    """Read `factors.json`; with `rope`, refuse factors that were made for another model.

    Raises UserError naming the file, the value and the rule it breaks.
    """
    record = read_json(path, MADE)
    try:
        factors = factors_of_record(record)
        if rope is not None:
            check_same_model(factors.rope, rope)
    except KeyError as error:
        raise UserError(f"{path}: the key {error} is missing") from None
    except TypeError as error:
        raise UserError(f"{path}: a value has the wrong type ({error})") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return factors


def factors_of_record(record: dict) -> RescaleFactors:
    """Factors from what `factors.json` holds."""
    if record["schema"] != SCHEMA:
        raise UserError(f"schema {record['schema']!r}: this version reads schema {SCHEMA}")
    if not isinstance(record["lambda"], list):
        raise UserError(f"lambda = {_shown(record['lambda'])}: must be a list of one factor a pair")
    return RescaleFactors(
        rope=rope_of_record(record),
        window=record["window"],
        method=record["method"],
        lambda_=tuple(math.inf if value == "inf" else value for value in record["lambda"]),
        n_hat=record["n_hat"],
        attention_factor=record["attention_factor"],
        provenance=record.get("provenance", {}),
    )


def su_factor(ratio: float, original: int) -> float:
    """sqrt(1 + ln s / ln L) for a window s times the original L: the attention scaling of the
    authors' released code, of transformers' longrope and of most engines; 1 up to L."""
    return math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0


def rope_of_record(record: dict) -> Rope:
    """The RoPE that `factors.json` and a checkpoint's `longrope.json` describe alike."""
    return Rope(
        model=record["model"],
        theta=record["rope_theta"],
        rotary_dim=record["rotary_dim"],
        original_window=record["original_window"],
        fingerprint=record["base_fingerprint"],
    )


def record_of_factors(factors: RescaleFactors) -> dict:
    """What `factors.json` holds of factors."""
    return {
        "schema": SCHEMA,
        "model": factors.rope.model,
        "rope_theta": factors.rope.theta,
        "rotary_dim": factors.rope.rotary_dim,
        "base_fingerprint": factors.rope.fingerprint,
        "original_window": factors.rope.original_window,
        "window": factors.window,
        "method": factors.method,
        "n_hat": factors.n_hat,
        "lambda": ["inf" if math.isinf(value) else value for value in factors.lambda_],
        "attention_factor": factors.attention_factor,
        "provenance": factors.provenance,
    }


def write_factors(path: Path, factors: RescaleFactors) -> None:
    """Write `factors.json`."""
    write_checked(path, record_of_factors(factors))


def check_same_model(found: Rope, expected: Rope) -> None:
    """Raise UserError if factors made for `found` are put on `expected`."""
    for name, meaning in (
        ("theta", "rope_theta"),
        ("rotary_dim", "rotary_dim"),
        ("original_window", "original window"),
        ("fingerprint", "fingerprint of the pre-trained weights"),
    ):
        ours, theirs = getattr(expected, name), getattr(found, name)
        if ours != theirs:
            raise UserError(
                f"these factors are for model {found.model!r} with {meaning} {theirs},"
                f" this model {expected.model!r} has {ours}: use factors made for it"
            )


def own_start(name: object) -> str | None:
    """The name of a start; None for one that a search of n_hat alone made of it, and for others."""
    return name if isinstance(name, str) and ", n_hat " not in name else None


def describe(factors: RescaleFactors) -> str:
    """One line for people: method, window, ratio, n_hat, the range of lambda, unbeaten start."""
    low, high = min(factors.lambda_), max(factors.lambda_)
    start = factors.unbeaten_start
    return (
        f"{factors.method} for {window_label(factors.window)} ({factors.ratio:g}x):"
        f" lambda {low:g} to {high:g}, n_hat {factors.n_hat},"
        f" attention factor {factors.attention_factor:g}"
        + (f"; the search found none better than its start {start!r}" if start else "")
    )


def _number(value: object) -> bool:
    """Whether it is a number that a float can hold, infinity among them."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        return False
    return isinstance(value, float) or abs(value) <= sys.float_info.max


def _shown(value: object) -> str:
    """A value in a message: a number may have thousands of digits."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
