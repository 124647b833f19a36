"""Tensors to another device, without waiting where that can be."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def moved(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`; itself if it is there. No host waits for a copy from host to device."""
    if x.device == device:
        return x
    if x.device.type == "cpu" and device.type == "cuda":
        # Pinned, so that the copy is queued; the allocator keeps the block until it is done.
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def common_device(tensors: Iterable[Tensor]) -> torch.device:
    """The device of all `tensors`, where there is one; else the CPU."""
    devices = {t.device for t in tensors}
    return devices.pop() if len(devices) == 1 else torch.device("cpu")


def picked(x: Tensor, rows: list[int]) -> Tensor:
    """x[rows], without waiting for the device of `x`."""
    if rows == list(range(rows[0], rows[0] + len(rows))):
        return x[rows[0] : rows[0] + len(rows)]
    return x.index_select(0, moved(torch.tensor(rows), x.device))
