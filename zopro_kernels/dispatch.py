"""Which backend serves a device: `backend=`, the variable ZOPRO_BACKEND, or the fastest."""

from __future__ import annotations

import os
import warnings
from functools import cache
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


def default_backend(device: torch.device | str) -> str:
    """Name of the backend that serves tensors on `device` when none is asked for."""
    kind = torch.device(device).type
    for name in _PREFERENCE.get(kind, ("reference",)):
        if _BACKENDS[name].status() == "available":
            return name
    raise RuntimeError(f"no backend serves device {str(device)!r}")


@cache
def _warn_slow(device_type: str) -> None:
    warnings.warn(
        f"zopro_kernels has no native kernels for {device_type!r} here and uses the much slower "
        "PyTorch reference: `zopro doctor` says what is missing",
        RuntimeWarning,
        stacklevel=2,
    )


def choose(device: torch.device, backend: str | None = None) -> ModuleType:
    """The backend module for tensors on `device`.

    An explicit `backend`, or else the variable ZOPRO_BACKEND, is obeyed or raises ValueError
    (unknown name, wrong device) or RuntimeError (not available here).
    """
    asked = backend if backend is not None else os.environ.get(ENV) or None
    if asked is None:
        name = default_backend(device)
        if name == "reference":
            _warn_slow(device.type)
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
