"""Which backend serves a device: `backend=`, the variable ZOPRO_BACKEND, or the fastest there is."""

from __future__ import annotations

import os
from types import ModuleType

import torch

from . import cpu, cuda, reference, triton_backend

ENV = "ZOPRO_BACKEND"
_BACKENDS: dict[str, ModuleType] = {
    "reference": reference,
    "cpu": cpu,
    "triton": triton_backend,
    "cuda": cuda,
}
_PREFERENCE = {"cuda": ("cuda", "triton", "reference"), "cpu": ("cpu", "reference")}


def backends() -> dict[str, str]:
    """Name of each backend and "available", or the reason why it is not."""
    return {name: module.status() for name, module in _BACKENDS.items()}


def choose(device: torch.device, backend: str | None = None) -> ModuleType:
    """The backend module for tensors on `device`.

    An explicit `backend`, or else the variable ZOPRO_BACKEND, is obeyed or raises ValueError
    (unknown name, wrong device) or RuntimeError (not available here).
    """
    asked = backend if backend is not None else os.environ.get(ENV) or None
    if asked is None:
        for name in _PREFERENCE.get(device.type, ("reference",)):
            if _BACKENDS[name].status() == "available":
                return _BACKENDS[name]
    source = "backend" if backend is not None else ENV
    if asked not in _BACKENDS:
        raise ValueError(f"{source}={asked!r} is not a backend: use one of {', '.join(_BACKENDS)}")
    module = _BACKENDS[asked]
    if (state := module.status()) != "available":
        raise RuntimeError(f"{source}={asked!r} is not available here: {state}")
    if not module.supports(device):
        raise ValueError(f"{source}={asked!r} does not serve tensors on device {str(device)!r}")
    return module
