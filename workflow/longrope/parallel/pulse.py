"""
Signs of life: how a rank that waits tells one that is busy from one that is gone.

Teams have unequal shares, and one score, window or prompt may take hours. If a collective waited
that long, it would wait as long for a rank that has stopped answering. So each rank counts up in a
store that all see, for as long as it lives, and before ranks exchange something they meet there:
every one waits until all have come, or until one of them has not counted for too long.

The store is in a process of one machine. It may stand still as well, and torch waits without a
limit for its answer; so a rank whose counting is not answered for too long gives up.
"""

import threading
import time
from collections.abc import Callable

BEATS = 10  # within the patience of the others
SOON, LATER = 0.001, 0.5  # seconds between two looks: at first, and in the end


class Silence(RuntimeError):
    """A rank, or the store, has shown no sign of life for too long."""


class Pulse:
    """The signs of life of this rank, and its look at those of the others."""

    def __init__(
        self,
        store,
        rank: int,
        world: int,
        patience: float,
        give_up: Callable[[Silence], None] | None = None,
    ) -> None:
        """`store` is one of torch.distributed that all ranks see; `patience` is in seconds.
        `give_up` ends this process, in a thread of its own, where the store stands still."""
        self._store, self._rank, self._world, self._patience = store, rank, world, patience
        self._meetings = 0
        self._over = threading.Event()
        self._answered = time.monotonic()
        # A connection of its own: on the other one a call may wait, and all others with it.
        self._beats = threading.Thread(target=self._beat, args=(store.clone(),), daemon=True)
        self._beats.start()
        if give_up:
            threading.Thread(target=self._guard, args=(give_up,), daemon=True).start()

    def meet(self) -> None:
        """Wait until all ranks are here; Silence if one shows no sign of life for too long."""
        self._meetings += 1
        here, seen, wait = f"here-{self._meetings}", {}, SOON
        self._store.add(here, 1)
        while self._store.add(here, 0) < self._world:
            if wait == LATER:
                self._look(seen)
            time.sleep(wait)
            wait = min(2 * wait, LATER)

    def end(self) -> None:
        """No more signs of life."""
        self._over.set()
        self._beats.join()

    def _look(self, seen: dict[int, tuple[int, float]]) -> None:
        """Note how far each rank has counted, and when it was first seen there."""
        now = time.monotonic()
        for rank in range(self._world):
            count = self._store.add(f"beats-{rank}", 0)
            if rank not in seen or seen[rank][0] != count:
                seen[rank] = count, now
            elif now - seen[rank][1] > self._patience:
                raise Silence(f"rank {rank} showed no sign of life for {self._patience:g} s")

    def _beat(self, store) -> None:
        while not self._over.wait(self._patience / BEATS):
            try:
                store.add(f"beats-{self._rank}", 1)
            except RuntimeError:  # the store is gone, and the others with it
                return
            self._answered = time.monotonic()

    def _guard(self, give_up: Callable[[Silence], None]) -> None:
        late = 0
        while not self._over.wait(self._patience / BEATS):
            late = late + 1 if time.monotonic() - self._answered > self._patience else 0
            if late > 1:  # not just after this process itself stood still
                give_up(
                    Silence(
                        "the store that all meet in showed no sign of life for"
                        f" {self._patience:g} s"
                    )
                )
                return
