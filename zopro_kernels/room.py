"""Memory for perturbed copies that are made, where no kernel makes them in registers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Copies that are alive at a time where they are made at all: on a CPU what its second cache level
# holds, elsewhere little beside a forward's own memory, in few launches.
SCRATCH_BYTES = {"cpu": 1 << 19}
OTHER_SCRATCH_BYTES = 1 << 24


class Room:
    """Memory for copies, used by one layer after the other."""

    def __init__(self) -> None:
        self._of: dict[torch.device, Tensor] = {}

    def rows(self, device: torch.device, bytes_each: int) -> int:
        """How many copies of so many bytes are made at a time: at least one."""
        room = SCRATCH_BYTES.get(device.type, OTHER_SCRATCH_BYTES)
        return max(1, room // max(bytes_each, 1))

    def copies(self, count: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """[count, *shape] of the dtype and device of `like`, of any contents."""
        size = count * math.prod(shape) * like.element_size()
        kept = self._of.get(like.device)
        if kept is None or kept.numel() < size:
            kept = self._of[like.device] = torch.empty(size, dtype=torch.uint8, device=like.device)
        return kept[:size].view(like.dtype).view(count, *shape)
