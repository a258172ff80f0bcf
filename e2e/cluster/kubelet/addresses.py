"""Pods' addresses: each pod gets one of its own from the loopback range, on the machine's one network.

There is no CNI here, so two pods may use one port as long as each binds to its own address, which it learns from the
downward API. What was handed out is a file per pod: a restarted kubelet hands out the same.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path


class Pool:
    """Addresses of one network, in `folder`/<pod uid>. The first address is the node's own."""

    def __init__(self, network: str, folder: Path) -> None:
        self._network = ipaddress.ip_network(network)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._taken = {entry.name: entry.read_text() for entry in folder.iterdir()}
        self._last = 1

    @property
    def node(self) -> str:
        return str(self._network[1])

    def of(self, uid: str) -> str:
        """The pod's address: the one it has, or the next free one after the last that was handed out."""
        if uid not in self._taken:
            address = self._next_free()
            (self._folder / uid).write_text(address)
            self._taken[uid] = address
        return self._taken[uid]

    def _next_free(self) -> str:
        taken = set(self._taken.values())
        size = self._network.num_addresses
        for step in range(size):
            index = 2 + (self._last - 1 + step) % (size - 3)
            address = str(self._network[index])
            if address not in taken:
                self._last = index
                return address
        raise RuntimeError(f"no address is left in {self._network}")

    def release(self, uid: str) -> None:
        self._taken.pop(uid, None)
        (self._folder / uid).unlink(missing_ok=True)
