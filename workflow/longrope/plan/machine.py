"""
What a job runs on: how much memory a GPU has, how fast it multiplies, and what share of it is had.

resources/gpus.csv has the makers' figures: memory in GiB, and dense matrix FLOP/s in bfloat16 with
float32 sums. `cpu` is one core of this machine, in float32; its rate is measured or given.
"""

import csv
import math
import os
import time
from dataclasses import dataclass

from longrope.errors import UserError, unknown_name
from longrope.plan.architecture import RESOURCES

GIB = 1 << 30
GPUS = RESOURCES / "gpus.csv"
CPU = "cpu"
USABLE = 0.9  # of the memory; the rest is the driver's, workspaces and gaps between tensors
# Share of the peak that is reached: docs/plan.md has what it was held against.
UTILISATION = 0.4


@dataclass(frozen=True, slots=True)
class Machine:
    """One GPU, or one core, and how many of them a job may have."""

    name: str
    memory: int  # bytes of one
    flops: float  # a second, of one, at best
    utilisation: float = UTILISATION  # share of `flops` that is reached
    gpus: int = 1  # that one job may have

    @property
    def is_cpu(self) -> bool:
        """Whether models run in float32 and in the machine's own memory."""
        return self.name == CPU

    @property
    def usable(self) -> int:
        """Bytes of one that tensors may take."""
        return int(self.memory * USABLE)

    def seconds(self, flops: float, gpus: int = 1) -> float:
        """How long that many FLOPs take."""
        return flops / (gpus * self.flops * self.utilisation)


def find_machine(
    name: str,
    *,
    memory: float | None = None,
    flops: float | None = None,
    utilisation: float | None = None,
    gpus: int = 1,
) -> Machine:
    """A machine by name; `memory` (GiB) and `flops` replace what is known or measured."""
    utilisation = UTILISATION if utilisation is None else utilisation
    if not 0 < utilisation <= 1:
        raise UserError(f"utilisation {utilisation:g}: it is a share, above 0 and at most 1")
    if gpus < 1:
        raise UserError(f"gpus {gpus}: a job has at least 1")
    given = [value for value in (memory, flops) if value is not None]
    if any(not 0 < value < math.inf for value in given):
        raise UserError("memory (GiB) and flops (a second) are numbers above 0")
    if name == CPU:
        own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found = own, flops or measured_flops()
    else:
        known = _known()
        if name not in known:
            raise unknown_name("GPU", name, [CPU, *known])
        found = known[name]
    size = found[0] if memory is None else int(memory * GIB)
    return Machine(name, size, flops or found[1], utilisation, gpus)


def _known() -> dict[str, tuple[int, float]]:
    """Name -> bytes and FLOP/s."""
    if not GPUS.exists():
        raise UserError(f"{GPUS} is missing: run from a clone of the repository")
    with GPUS.open(encoding="utf-8") as file:
        return {
            row["name"]: (int(float(row["memory_gib"]) * GIB), float(row["flops"]))
            for row in csv.DictReader(file)
        }


def measured_flops(size: int = 1024, times: int = 8) -> float:
    """FLOP/s of one core in float32: the best of some products of square matrices."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the default profile gives a job
    try:
        matrix = torch.ones(size, size)
        took = []
        for _ in range(times):
            began = time.perf_counter()
            matrix @ matrix
            took.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return 2 * size**3 / min(took)
