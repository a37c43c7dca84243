"""
What a job does, whatever it runs on, and on how many GPUs it fits.
"""

import math
from dataclasses import dataclass

from longrope.plan.cost import Flops

NOTHING = Flops()


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a job over several GPUs: what each has whole, and what is parted among them."""

    whole: int
    parted: int

    def on(self, gpus: int) -> int:
        """Of each of so many."""
        return self.whole + math.ceil(self.parted / gpus)

    def gpus(self, usable: int) -> int | None:
        """The least number, at least 2, that holds it; None if none does."""
        room = usable - self.whole
        return max(2, math.ceil(self.parted / room)) if room > 0 else None


@dataclass(frozen=True, slots=True)
class Work:
    """What a job does, whatever it runs on."""

    what: str = ""  # at which lengths, how often
    tokens: int = 0  # through the model
    computed: Flops = NOTHING
    memory: int = 0  # bytes, on one GPU
    over: Memory | None = None  # over several; None: it runs in one process only
    disk: int = 0  # bytes that are left afterwards, state included
    seconds: float = 0.0  # beside the FLOPs

    @property
    def flops(self) -> float:
        """Of all kinds together."""
        return self.computed.total

    def gpus(self, usable: int) -> int | None:
        """How many GPUs hold it; None if no number does."""
        if self.memory <= usable:
            return 1
        return self.over.gpus(usable) if self.over else None
