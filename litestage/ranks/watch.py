"""Ends the whole job within a second when one of its ranks has died, and says which.

A rank that was killed says nothing, and the others could wait for it for as long as a timed run may take. So the
process that started the others looks at them, each of the others looks whether the one that started it is still
there, and what breaks in a rank only because another is gone is left to those who watch that one to tell.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from litestage.errors import LiteStageError
from litestage.ranks.place import here
from litestage.ranks.together import is_in_step

_LOOK_S = 0.05  # Lightning looks every 5 s, and whoever looks first after a death tells
_TELL_S = 3.0  # how long another is given to tell what happened
_HOSTS_TELL_S = 20.0  # and litestage.ranks.hosts, which has to be sure
_INTERRUPTED = 130  # exit code of Ctrl-C, which every process of a terminal gets


def watch(strategy: Any) -> None:
    """Watches the ranks that ``strategy`` (Lightning's) is about to start, or the process that started this one."""
    environment = strategy.cluster_environment
    if environment.creates_processes_externally:
        rank = int(environment.node_rank()) * strategy.num_processes + int(environment.local_rank())
        _start(_watch_parent, os.getppid(), rank)
        if rank:
            signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    else:
        rank = int(environment.node_rank()) * strategy.num_processes
        _start(_watch_children, strategy.launcher.procs, rank + 1)
    sys.excepthook = partial(_patiently, sys.excepthook)


def let_rank_zero_tell() -> None:
    """On other ranks: waits for rank 0, which met the same mistake, to tell it and end, and this one with it."""
    if here().rank:
        time.sleep(_TELL_S)
        print(f"litestage: rank {here().rank}:", file=sys.stderr)  # it alone met it


def _start(target: Any, *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, daemon=True, name="rank-watch").start()


def _watch_children(children: Sequence[subprocess.Popen[bytes]], first: int) -> None:
    while True:
        time.sleep(_LOOK_S)
        for rank, child in enumerate(list(children), start=first):
            code = child.poll()
            if not code:
                continue
            if code == _INTERRUPTED:
                time.sleep(_TELL_S)  # the main thread was interrupted as well
            else:
                end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                tell(
                    f"rank {rank} {end}, so the job ends; "
                    "what was finished is kept, the same command goes on from there."
                )
            for other in children:
                other.kill()
            os._exit(code if code > 0 else 1)


def _watch_parent(parent: int, rank: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    if is_in_step():  # else the job was done
        tell(f"the process that started rank {rank} is gone, so rank {rank} ends.")
    os._exit(1)


def tell(message: str) -> None:
    """One line on the terminal, whatever else is being written there."""
    from litestage.progress import console

    console.show_cursor()  # a progress bar may have hidden it
    print(f"litestage: {message}", file=sys.__stderr__, flush=True)  # torch holds sys.stderr while it prints errors


def _patiently(tell: Callable[..., Any], kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Lets whoever knows more tell an uncaught error first; torch puts the rank's number before what is told then."""
    if (isinstance(error, LiteStageError) and here().rank) or _is_broken_collective(error):
        time.sleep(_TELL_S if here().num_nodes == 1 else _HOSTS_TELL_S)
    tell(kind, error, trace)


def _is_broken_collective(error: BaseException) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
