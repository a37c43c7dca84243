"""
Where a process stands among those that run a stage together.

Processes are ranks 0, 1, ...; as many in a row as `per_sequence` hold one sequence together, each a
slice of it. Such a group takes its share of what can be done side by side: the sequences of a
training step, the candidates of a search, the windows of an evaluation. Every rank runs the same
code. Rank 0 alone writes files and leads a search.

One process is a place like any other, where nothing is sent. Torch is imported where there are
several.
"""

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from longrope.errors import UserError
from longrope.parallel.pulse import Pulse, Silence

PATIENCE = 1800.0  # seconds that a rank waits for a sign of another before it gives up


@dataclass(frozen=True, slots=True)
class Place:
    """A rank, and the groups that it is in."""

    rank: int = 0
    world: int = 1  # ranks in all
    per_sequence: int = 1  # ranks that hold one sequence together
    peers: Any = None  # process group of those that hold a sequence with this one: its team
    team_talk: Any = None  # the same, for Python objects
    talk: Any = None  # process group of all, for Python objects
    pulse: Any = None  # signs of life of all

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    @property
    def teams(self) -> int:
        """How many sequences, candidates or windows are worked on side by side."""
        return self.world // self.per_sequence

    @property
    def team(self) -> int:
        """Which of the teams this rank is in."""
        return self.rank // self.per_sequence

    @property
    def part(self) -> int:
        """Which part of its team's sequence it holds."""
        return self.rank % self.per_sequence

    def gather(self, value: Any) -> list:
        """What every rank has, in their order; all must call it, some perhaps much later."""
        self._meet()
        return _gather(value, self.world, self.talk)

    def gather_team(self, value: Any) -> list:
        """What every rank of this team has, in their order; all of the team must call it."""
        return _gather(value, self.per_sequence, self.team_talk)

    def share(self, value: Any = None) -> Any:
        """What rank 0 has; all must call it, some perhaps much later."""
        if self.world == 1:
            return value
        self._meet()
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.talk)
        return box[0]

    def once(self, run: Callable[[], Any]) -> Any:
        """What `run()` returns on rank 0, on all; UserError there is raised on all."""
        if self.world == 1:
            return run()
        answer: tuple[Any, str | None] = None, None
        if self.leads:
            try:
                answer = run(), None
            except UserError as error:
                answer = None, str(error)
        value, said = self.share(answer)
        if said is not None:
            raise UserError(said)
        return value

    def _meet(self) -> None:
        """Wait for all ranks, however long they work, as long as they show signs of life."""
        if self.pulse:
            self.pulse.meet()

    def deal(self, items: Sequence, run: Callable[[Any], Any]) -> list:
        """`run(item)` of every item, in their order, each worked on by one team; on all ranks.

        Teams may have unequal shares, so `run` must not call what all ranks must call.
        """
        mine = {at: run(items[at]) for at in range(self.team, len(items), self.teams)}
        made = {at: value for part in self.gather(mine) for at, value in part.items()}
        return [made[at] for at in range(len(items))]


def _gather(value: Any, size: int, group) -> list:
    if size == 1:
        return [value]
    import torch.distributed as dist

    found = [None] * size
    dist.all_gather_object(found, value, group=group)
    return found


_here = Place()


def here() -> Place:
    """The place of this process."""
    return _here


def is_rank() -> bool:
    """Whether this process was started as one of several, by `launch` or by torchrun itself."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def join(
    per_sequence: int = 1,
    patience: float = PATIENCE,
    give_up: Callable[[Silence], None] | None = None,
) -> Place:
    """Meet the other ranks and take one's place among them; UserError if they cannot be grouped.

    A rank that has stopped answering ends the stage and does not hang it: where a team holds a
    sequence together, or all train, a collective that takes longer than `patience` seconds fails;
    where ranks have unequal shares of work, one that shows no sign of life for so long does. Where
    that is what all meet in, `give_up` is called to end this process.
    """
    global _here
    import torch
    import torch.distributed as dist

    rank, world, local = (int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    check_groups(world, per_sequence)
    check_gpus(local + 1)
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    limit = datetime.timedelta(seconds=patience)
    store, *_ = next(dist.rendezvous("env://", timeout=limit))
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
    peers = team_talk = None
    for first in range(0, world, per_sequence):  # all ranks make all groups
        members = list(range(first, first + per_sequence))
        groups = [dist.new_group(members, timeout=limit, backend=each) for each in (None, "gloo")]
        if rank in members:
            peers, team_talk = groups
    talk = dist.new_group(backend="gloo", timeout=limit)
    pulse = Pulse(dist.PrefixStore("pulse", store), rank, world, patience, give_up)
    _here = Place(rank, world, per_sequence, peers, team_talk, talk, pulse)
    return _here


def leave() -> None:
    """Take leave of the other ranks, once all have done their part.

    Rank 0 writes when the others are done. A machine whose ranks ended long before would end as
    well, and with it the store in which all meet, if that is on it.
    """
    global _here
    import torch.distributed as dist

    if _here.pulse:
        _here.pulse.meet()
        _here.pulse.end()
    if dist.is_initialized():
        dist.destroy_process_group()
    _here = Place()


def check_groups(world: int, per_sequence: int) -> None:
    """Raise UserError unless ranks can be grouped so."""
    if world % per_sequence:
        raise UserError(
            f"{world} processes cannot be grouped by {per_sequence}, the ranks that hold one"
            " sequence together: choose a divisor of the number of processes"
        )


def check_gpus(processes: int) -> None:
    """Raise UserError where this machine has GPUs, and fewer than one for each process."""
    import torch

    if torch.cuda.is_available() and (found := torch.cuda.device_count()) < processes:
        raise UserError(f"--processes {processes}: this machine has {found} GPUs, one for each")
