"""
Where the ranks of one machine meet: at an address that no other machine can reach.

What torch does by itself serves on every interface of a machine, without a password, and whoever
reaches the port can write what ranks unpickle. Here the store listens on the loopback address, in
the process that watches over the ranks, and gloo and NCCL are told to use that interface too.
"""

import os
import socket

from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

NAME = "longrope-loopback"  # among torch's ways to meet
ADDRESS = "127.0.0.1"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")  # unless set; read by ranks


class Loopback(RendezvousHandler):
    """A meeting of one machine alone, which is there at once."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id
        self._closed = False
        listening = socket.create_server((ADDRESS, 0), backlog=2048)
        self._port = listening.getsockname()[1]
        # The store takes the open socket over; without one it would listen on every interface.
        self._store = TCPStore(
            ADDRESS,
            self._port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )

    @property
    def use_agent_store(self) -> bool:
        """Ranks are clients of this store, and make none of their own."""
        return True

    def get_backend(self) -> str:
        return NAME

    def next_rendezvous(self) -> RendezvousInfo:
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo(ADDRESS, self._port))

    def is_closed(self) -> bool:
        return self._closed

    def set_closed(self) -> None:
        self._closed = True

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        self._closed = True
        return True


def meet_on_loopback() -> str:
    """Let the ranks of this machine meet by themselves; returns torch's name for that."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    for setting in INTERFACES:
        if names:
            os.environ.setdefault(setting, names[0])
    rendezvous_handler_registry.register(NAME, Loopback)
    return NAME
