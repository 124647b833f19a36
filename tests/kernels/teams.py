"""How many threads a call of the C++ kernels really has."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import torch


def team_of(call: Callable[[], None], threads: int) -> int:
    """Runs `call` with `torch.set_num_threads(threads)` in a thread of its own, whose team OpenMP
    has to start anew, and returns how many threads it had."""

    def alone() -> int:
        torch.set_num_threads(threads)
        before = {thread.id for thread in psutil.Process().threads()}
        call()
        return 1 + len({thread.id for thread in psutil.Process().threads()} - before)

    known = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(alone).result()
    finally:
        torch.set_num_threads(known)
