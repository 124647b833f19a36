"""Small fp64 vectors on the parameters' device, without waiting for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def common_device(tensors: Iterable[Tensor]) -> torch.device:
    """The device of all `tensors`; the CPU where they are on several (and steps then wait)."""
    devices = {t.device for t in tensors}
    return devices.pop() if len(devices) == 1 else torch.device("cpu")


def moved(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`; itself if it is there. No host waits for a copy from host to device."""
    if x.device == device:
        return x
    if x.device.type == "cpu" and device.type == "cuda":
        # Pinned, so that the copy is queued; the allocator keeps the block until it is done.
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def numbers(values: Sequence[float] | Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """Numbers of the host as fp64 on `device`, in one copy."""
    return moved(torch.tensor(values, dtype=torch.float64), device)
