"""Small fp64 vectors on the parameters' device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zopro_kernels import common_device, moved

__all__ = ["capturing", "common_device", "moved", "numbers"]


def capturing() -> bool:
    """Whether a CUDA graph is being captured: what is made now has no values yet."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def numbers(values: Sequence[float] | Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """Numbers of the host as fp64 on `device`, in one copy."""
    return moved(torch.tensor(values, dtype=torch.float64), device)
