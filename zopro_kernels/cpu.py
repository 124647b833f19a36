"""Backend "cpu": the C++ kernels of csrc/cpu on host tensors."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor

from .passes import Dots, Pass, PassSequence
from .reference_law import LAW
from .table import describe

CHUNK_TILES = 1
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}

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


def add_noise_(p: Pass) -> None:
    """Performs the pass in place."""
    table = describe(p, CHUNK_TILES)
    _native.add_noise(
        table.rows.data_ptr(), table.scales_address, len(p.tensors), p.integers.data_ptr(), p.count,
        p.floats.data_ptr(), p.floats.stride(0), _DTYPES[p.tensors[0].dtype],
        p.distribution == "gaussian", p.stochastic, p.prev is not None, p.v is not None,
        _DTYPES[p.form], torch.get_num_threads(),
    )  # fmt: skip


def add_noise_sequence_(s: PassSequence) -> None:
    """Performs the passes in place; a tile of the weights stays in the L1 through all of them."""
    table, (records, integers, floats) = describe(s, CHUNK_TILES), s.packed()
    _native.add_noise_sequence(
        table.rows.data_ptr(), table.scales_address, len(s.tensors), records.data_ptr(),
        len(records), integers.data_ptr(), floats.data_ptr(), _DTYPES[s.tensors[0].dtype],
        s.distribution == "gaussian", s.stochastic, s.prev is not None, s.v is not None,
        _DTYPES[s.form], torch.get_num_threads(),
    )  # fmt: skip


def noise_dots(d: Dots) -> Tensor:
    """int64 [T, 2]: v.n in units of 2^-40 and n.n in units of 2^-24."""
    sums = torch.empty(len(d.vectors), 2, dtype=torch.int64)
    table = describe(d, CHUNK_TILES)
    _native.noise_dots(
        table.rows.data_ptr(), table.scales_address, len(d.vectors), d.integers.data_ptr(),
        sums.data_ptr(), d.distribution == "gaussian", _DTYPES[d.form], torch.get_num_threads(),
    )  # fmt: skip
    return sums
