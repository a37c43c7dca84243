"""
What a job runs on: how much memory a GPU has, how fast it multiplies, and what share of it is had.

resources/gpus.csv has the makers' figures: memory in GiB, and dense matrix FLOP/s in bfloat16 with
float32 sums; and what share of these products with weights reach, and attention's kernel, which
docs/plan.md has the sources of. `cpu` is one core of this machine, in float32; its rate is measured
or given.
"""

import csv
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from longrope.errors import UserError, unknown_name
from longrope.plan.architecture import RESOURCES
from longrope.plan.cost import Flops

GIB = 1 << 30
GPUS = RESOURCES / "gpus.csv"
CPU = "cpu"
USABLE = 0.9  # of the memory; the rest is the driver's, workspaces and gaps between tensors
README_CORE = 1.8e11  # FLOP/s, measured likewise, of each of the two that the README's times are of
UTILISATION = (
    0.4  # share of the peak that a core reaches: docs/plan.md has what it was held against
)


@dataclass(frozen=True, slots=True)
class Machine:
    """One GPU, or one core, and how many of them a job may have."""

    name: str
    memory: int  # bytes of one
    flops: float  # a second, of one, at best
    matrices: float = UTILISATION  # share of `flops` that products with weights reach
    attention: float = UTILISATION  # and attention
    gpus: int = 1  # that one job may have

    @property
    def is_cpu(self) -> bool:
        """Whether models run in float32 and in the machine's own memory."""
        return self.name == CPU

    @property
    def usable(self) -> int:
        """Bytes of one that tensors may take."""
        return int(self.memory * USABLE)

    def seconds(self, flops: Flops, gpus: int = 1) -> float:
        """How long that many FLOPs take."""
        each = flops.matrices / self.matrices + flops.attention / self.attention
        return each / (gpus * self.flops)

    @property
    def reached(self) -> str:
        """The shares, as text."""
        if self.matrices == self.attention:
            return f"{self.matrices:.0%} of it reached"
        return f"{self.matrices:.0%} of it reached with weights, {self.attention:.0%} in attention"


def find_machine(
    name: str,
    *,
    memory: float | None = None,
    flops: float | None = None,
    utilisation: float | None = None,
    gpus: int = 1,
) -> Machine:
    """A machine by name; `memory` (GiB) and `flops` replace what is known or measured, and
    `utilisation` both shares of them."""
    if utilisation is not None and not 0 < utilisation <= 1:
        raise UserError(f"utilisation {utilisation:g}: it is a share, above 0 and at most 1")
    if gpus < 1:
        raise UserError(f"gpus {gpus}: a job has at least 1")
    given = [value for value in (memory, flops) if value is not None]
    if any(not 0 < value < math.inf for value in given):
        raise UserError("memory (GiB) and flops (a second) are numbers above 0")
    if name == CPU:
        own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found = own, flops or measured_flops(), UTILISATION, UTILISATION
    else:
        known = _known()
        if name not in known:
            raise unknown_name("GPU", name, [CPU, *known])
        found = known[name]
    size = found[0] if memory is None else int(memory * GIB)
    shares = found[2:] if utilisation is None else (utilisation, utilisation)
    return Machine(name, size, flops or found[1], *shares, gpus)


def _known() -> dict[str, tuple[int, float, float, float]]:
    """Name -> bytes, FLOP/s, and the shares of them in matrices and in attention."""
    if not GPUS.exists():
        raise UserError(f"{GPUS} is missing: run from a clone of the repository")
    with GPUS.open(encoding="utf-8") as file:
        return {
            row["name"]: (
                int(float(row["memory_gib"]) * GIB),
                float(row["flops"]),
                float(row["matrices"]),
                float(row["attention"]),
            )
            for row in csv.DictReader(file)
        }


def measured_flops(
    size: int = 512, times: int = 32, clock: Callable[[], float] = time.thread_time
) -> float:
    """FLOP/s of one core in float32: the best of many products of square matrices.

    The clock is the thread's own, which stands still while other work has the core, and a product
    takes milliseconds: on a machine ten times as busy as it has cores, the time of day made ten
    times fewer of it, this one 5%. What is measured is a core that the job has for itself.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the default profile gives a job, and those of the clock
    try:
        matrix = torch.ones(size, size)
        took = []
        for _ in range(times):
            began = clock()
            matrix @ matrix
            took.append(clock() - began)
    finally:
        torch.set_num_threads(before)
    return 2 * size**3 / min(took)
