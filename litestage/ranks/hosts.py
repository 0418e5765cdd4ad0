"""Ends the job when another host is gone, and names it.

A host that is switched off, or whose cable is out, says nothing, and a connection to it may stay open for hours. So
every rank counts in the store where the ranks met, about once a second, and all look whether the others still do.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

from litestage.ranks.place import here
from litestage.ranks.together import is_in_step
from litestage.ranks.watch import tell

_BEAT_S = 1.0
SILENCE_S = 15.0
"""How long a host may say nothing; a beat needs one moment of the interpreter and one answer of the store."""


@dataclass
class Pulse:
    """When this rank last heard of each other one.

    Attributes:
        hosts: name by rank.
        heard: seconds by this process's clock when a rank's count was last seen to move.
        answered: when the store, which is on rank 0's host, last answered.
    """

    hosts: list[str]
    now: Callable[[], float] = time.monotonic
    heard: dict[int, float] = field(init=False)
    answered: float = field(init=False)
    _looked: float = field(init=False)
    _counts: dict[int, bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Takes all as heard of just now: after this process itself stood still, nobody can tell who was silent."""
        self.answered = self._looked = self.now()
        self.heard = dict.fromkeys(range(len(self.hosts)), self.answered)

    def hear(self, counts: list[bytes]) -> None:
        """Takes what the store has of every rank."""
        self.answered = self.now()
        for rank, counted in enumerate(counts):
            if self._counts.get(rank) != counted:
                self._counts[rank], self.heard[rank] = counted, self.answered

    def silent(self) -> list[int]:
        """Ranks that have not been heard of for too long; without the store nobody can be, so then rank 0's host's.

        To be asked every second or so.
        """
        now = self.now()
        if now - self._looked > SILENCE_S / 3:
            self.begin_anew()
        self._looked, late = now, now - SILENCE_S
        if self.answered < late:
            return [rank for rank, host in enumerate(self.hosts) if host == self.hosts[0]]
        return [rank for rank, at in self.heard.items() if at < late]


def watch_hosts(address: str, port: int) -> None:
    """Starts to count and to look, in threads of their own.

    Args:
        address, port: of the store where the ranks met.
    """
    import torch.distributed as dist

    # A connection of our own: the group's may be held for as long as a rank waits.
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=False, timeout=timedelta(seconds=SILENCE_S)
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    names, beats = (
        [f"litestage/{attempt}/{what}/{rank}" for rank in range(here().world_size)] for what in ("host", "beat")
    )
    store.set(names[here().rank], socket.gethostname())
    store.set(beats[here().rank], "0")
    pulse = Pulse([name.decode() for name in store.multi_get(names)])
    for target, arguments in ((_beat, (store, beats, pulse)), (_look, (pulse,))):
        threading.Thread(target=target, args=arguments, daemon=True, name="host-watch").start()


def _beat(store: Any, beats: list[str], pulse: Pulse) -> None:
    for number in count(1):
        time.sleep(_BEAT_S)
        try:
            store.set(beats[here().rank], str(number))
            pulse.hear(store.multi_get(beats))
        except RuntimeError:  # the store is gone, with its host
            return


def _look(pulse: Pulse) -> None:
    while not (is_in_step() and (silent := pulse.silent())):  # who waits for nobody is done, and so may the others be
        time.sleep(_BEAT_S)
    if here().local_rank == 0:
        host, ranks = pulse.hosts[silent[0]], ", ".join(map(str, silent))
        tell(
            f"host {host} (rank {ranks}) has not been heard of for {SILENCE_S:.0f} s, so the job ends; "
            "what was finished is kept, the same command goes on from there."
        )
    os._exit(1)
