"""Backend "cuda": the CUDA kernels of csrc/cuda on device tensors."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from .passes import Dots, Pass, PassSequence
from .reference_law import DOT_NN_SCALE, LAW
from .table import NUMEL, describe, scalars

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
CHUNK_TILES = 1  # a warp takes a tile of 4,096 elements

_native: ModuleType | None
try:
    _native = import_module("._cuda", __package__)
    _reason = ""
    if _native.LAW != LAW:
        _reason = f"built for law {_native.LAW}, this package has law {LAW}: install it again"
except ModuleNotFoundError:
    _native, _reason = None, "not built: the CUDA module needs nvcc when zopro is installed"
except ImportError as error:  # another Python's build, say
    _native, _reason = None, f"the CUDA module does not import ({error}): install zopro again"


def status() -> str:
    """Either "available" or, in a few words, why this backend cannot serve here."""
    if _reason or _native is None:
        return _reason
    if (state := _native.status()) != "available":
        return state
    if not torch.cuda.is_available():
        return "no device: torch sees no CUDA device (is it a CPU build?)"
    return "available"


def supports(device: torch.device) -> bool:
    """Whether this backend works on tensors of `device`."""
    return device.type == "cuda"


def add_noise_(p: Pass) -> None:
    """Performs the pass in place; one launch, whatever the number of tensors and seeds."""
    device = p.tensors[0].device
    with torch.cuda.device(device):
        table = describe(p, CHUNK_TILES)
        integers, floats = scalars(p)
        _native.add_noise(
            device.index, table.rows.data_ptr(), table.scales_address, integers.data_ptr(),
            floats.data_ptr(), table.chunks, len(p.tensors), p.count, _DTYPES[p.tensors[0].dtype],
            p.distribution == "gaussian", p.stochastic, p.prev is not None, p.v is not None,
            _DTYPES[p.form], torch.cuda.current_stream(device).cuda_stream,
        )  # fmt: skip


def add_noise_sequence_(s: PassSequence) -> None:
    """Performs the passes in place; one launch, weights in registers through all records."""
    device = s.tensors[0].device
    with torch.cuda.device(device):
        table, (records, integers, floats) = describe(s, CHUNK_TILES), s.packed()
        _native.add_noise_sequence(
            device.index, table.rows.data_ptr(), table.scales_address, records.data_ptr(),
            len(records), integers.data_ptr(), floats.data_ptr(), table.chunks, len(s.tensors),
            _DTYPES[s.tensors[0].dtype], s.distribution == "gaussian", s.stochastic,
            s.prev is not None, s.v is not None, _DTYPES[s.form],
            torch.cuda.current_stream(device).cuda_stream,
        )  # fmt: skip


def noise_dots(d: Dots) -> Tensor:
    """int64 [T, 2] on the device: v.n in units of 2^-40 and n.n in units of 2^-24."""
    device, count = d.vectors[0].device, len(d.vectors)
    gaussian = d.distribution == "gaussian"
    with torch.cuda.device(device):
        table = describe(d, CHUNK_TILES)
        integers, _ = scalars(d)
        sums = torch.zeros(count, 2, dtype=torch.int64, device=device)
        _native.noise_dots(
            device.index, table.rows.data_ptr(), table.scales_address, integers.data_ptr(),
            sums.data_ptr(), table.chunks, count, gaussian, _DTYPES[d.form],
            torch.cuda.current_stream(device).cuda_stream,
        )  # fmt: skip
        if not gaussian:  # n.n of signs counts the elements, which the table knows
            sums[:, 1] = table.rows[:, NUMEL] * int(DOT_NN_SCALE)
    return sums
