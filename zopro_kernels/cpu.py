"""Backend "cpu": the C++ kernels of csrc/cpu on host tensors."""

from __future__ import annotations

import torch


def status() -> str:
    return "not built"


def supports(device: torch.device) -> bool:
    return device.type == "cpu"
