"""
Which weights factors are for: those that they were searched on, or that were tuned with them.

Tuned weights keep the fingerprint of their base as that of their RoPE, so that alone does not tell
factors of one tuning from those of another, or of the base. The provenance of searched factors
does; closed forms and imported factors were searched on no weights, and are for any of a base.
This module imports nothing heavy.
"""

from collections.abc import Iterable

from longrope.errors import UserError
from longrope.factors import RescaleFactors
from longrope.windows import window_label

MEANT = "other_weights=True (generate: --other-weights)"  # how one says that they are meant


def weights_of(factors: RescaleFactors) -> str | None:
    """The fingerprint of the weights that factors were searched on; None for those of a formula."""
    found = factors.provenance.get("weights_fingerprint")
    return found if isinstance(found, str) else None


def check_searched_on(
    factors: Iterable[RescaleFactors],
    weights: str,
    base: str,
    tuned: RescaleFactors | None = None,
    way_out: str = f"say {MEANT} if it is meant",
) -> None:
    """Raise UserError unless factors are for the weights with a fingerprint.

    They are if they were searched on them, or if these are `tuned` with them, as then the search
    was on what they were tuned from. Tiers of which one was searched on these very weights were put
    together for them: those of the base among them are what they were tuned with.
    """
    factors = tuple(factors)
    known = {weights, None}
    if weights in {weights_of(each) for each in factors}:
        known.add(base)
    for each in factors:
        if weights_of(each) in known or (tuned is not None and _does(each) == _does(tuned)):
            continue
        name = each.provenance.get("weights")
        raise UserError(
            f"the factors for {window_label(each.window)} were searched on other weights:"
            f" {weights_of(each)}{f' ({name})' if name else ''}, these are {weights}: search on"
            f" them, or {way_out}"
        )


def _does(factors: RescaleFactors) -> tuple:
    """What factors do, whatever they are called and wherever they come from."""
    return factors.lambda_, factors.n_hat, factors.attention_factor, factors.window
