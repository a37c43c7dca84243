"""
Which factors an export carries: one table for every length by default, two, or every tier.

With one table, short and long list are the same and the original window is set to the extended
one: then nothing that an engine derives from the two (which list, a scaling of attention, the
window that it serves by default) can go wrong. `left_out` says what a choice cannot express.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from longrope.errors import UserError
from longrope.extended import Tiers
from longrope.factors import RescaleFactors
from longrope.windows import window_label

STILL = 1e30  # in place of an infinite lambda, which JSON does not have: an angle of 0 in float32


@dataclass(frozen=True, slots=True)
class Tables:
    """The factors that an export carries, without n_hat."""

    tiers: Tiers  # of the extended model
    short: RescaleFactors  # up to the original window
    long: RescaleFactors  # beyond it

    @property
    def one(self) -> bool:
        """Whether the same factors serve every length."""
        return self.short is self.long

    @property
    def window(self) -> int:
        """The longest sequence that the export is for."""
        return self.long.window

    @property
    def original(self) -> int:
        """The window up to which the short list counts, as config.json says it."""
        return self.window if self.one else self.tiers.rope.original_window


def choose(tiers: Tiers, window: int | None, *, two: bool) -> Tables:
    """The tables of an export: that of the tier for `window` (by default the longest), and with
    `two` that of the original window before it."""
    long = tiers.longest if window is None else tiers.at(window)
    short = long
    if two:
        original = tiers.rope.original_window
        short = tiers.for_length(original)
        if short is long:
            raise UserError(
                f"two tables: the extended model has no tier for its original window"
                f" {window_label(original)} beside that for {window_label(long.window)}; recover"
                " it, or export one table"
            )
    plain = [dataclasses.replace(each, n_hat=0) for each in (short, long)]
    return Tables(tiers, plain[1] if short is long else plain[0], plain[1])


def as_list(factors: RescaleFactors) -> list[float]:
    """lambda as JSON and float32 can hold it."""
    return [STILL if math.isinf(value) else float(value) for value in factors.lambda_]


def left_out(tables: Tables) -> Iterator[str]:
    """What one or two tables cannot say of the extended model, a sentence each."""
    tiers = tables.tiers.factors
    kept = {tables.short.window, tables.long.window}
    if gone := [each for each in tiers if each.window not in kept and each.window < tables.window]:
        windows = ", ".join(window_label(each.window) for each in gone)
        yield (
            f"The factors for {windows} are left out: shorter texts run with those for"
            f" {window_label(tables.long.window)}."
        )
    if beyond := [each for each in tiers if each.window > tables.window]:
        windows = ", ".join(window_label(each.window) for each in beyond)
        yield f"Texts beyond {window_label(tables.window)} are not covered (tiers {windows})."
    for each in dict.fromkeys((tables.short, tables.long)):
        if n_hat := next(tier.n_hat for tier in tiers if tier.window == each.window):
            yield (
                f"n_hat = {n_hat} of the tier {window_label(each.window)} is dropped: its first"
                f" {n_hat} tokens are rescaled like the rest."
            )
    own = {each.attention_factor for each in tiers if each.window <= tables.window}
    carried = {tables.short.attention_factor, tables.long.attention_factor}
    if own - carried:
        yield (
            f"Every text has the attention factor {tables.long.attention_factor:g}; the tiers have"
            f" {min(own):g} to {max(own):g}."
        )
