"""Backend "cpu": the C++ kernels of csrc/cpu on host tensors."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor

from .passes import Dots, Pass
from .reference_law import LAW

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

_native: ModuleType | None = None
try:
    _native = importlib.import_module("zopro_kernels._cpu")
    _reason = "available"
    if _native.LAW != LAW:
        _reason = f"built for law {_native.LAW}, this package has law {LAW}: install it again"
except ModuleNotFoundError:
    _reason = "not built: the C++ module needs a compiler when zopro is installed"
except ImportError as error:  # built for another machine, say
    _reason = f"the C++ module does not load: {error}"


def status() -> str:
    """Either "available" or, in a few words, why this backend cannot serve here."""
    return _reason


def supports(device: torch.device) -> bool:
    """Whether this backend works on tensors of `device`."""
    return device.type == "cpu"


def instruction_set() -> str:
    """What run-time dispatch chose: "avx512", "avx2" or "baseline"."""
    return _native.instruction_set()


def _addresses(tensors: list[Tensor] | None) -> list[int]:
    return [t.data_ptr() for t in tensors or ()]


def add_noise_(p: Pass) -> None:
    """Performs the pass in place."""
    _native.add_noise(
        _addresses(p.tensors), _addresses(p.prev), _addresses(p.v),
        [t.numel() for t in p.tensors], p.offsets, p.params, p.seeds, p.streams,
        p.coeffs.data_ptr(), p.decay.data_ptr(), p.prev_coeffs.data_ptr(), p.v_coeffs.data_ptr(),
        _DTYPES[p.tensors[0].dtype], p.distribution == "gaussian", p.stochastic, p.rounding_seed,
        torch.get_num_threads(),
    )  # fmt: skip


def noise_dots(d: Dots) -> Tensor:
    """int64 [T, 2]: v.n in units of 2^-40 and n.n in units of 2^-24."""
    sums = _native.noise_dots(
        _addresses(d.vectors), [v.numel() for v in d.vectors], d.offsets, d.params, d.seed,
        d.stream, d.distribution == "gaussian", torch.get_num_threads(),
    )  # fmt: skip
    return torch.tensor(sums, dtype=torch.int64).view(-1, 2)
