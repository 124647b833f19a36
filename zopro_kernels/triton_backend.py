"""Backend "triton": compiled kernels on CUDA tensors, or the interpreter on host tensors.

Triton is imported at the first use, so that the package imports without it. The interpreter
(TRITON_INTERPRET=1, read when Triton decorates a kernel) is for tests: slow, but the same source.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

from .passes import Dots, Pass, PassSequence
from .reference_law import DOT_NN_SCALE, gaussian_table
from .table import NUMEL, TILE, describe, scalars

NUM_WARPS = 4
TILES = 4  # tiles of 4,096 elements a program: with 4 warps, one Philox call a thread for signs
GROUPS = 256  # Gaussian: Philox calls a step, two a thread
INTERPRETED_TILES = 64  # at most: the interpreter pays by the operation more than by the element


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


def status() -> str:
    """Either "available" or, in a few words, why this backend cannot serve here."""
    if not _installed():
        return "triton is not installed"
    if _interpreting():
        return "available"
    if not torch.cuda.is_available():
        return "no device: torch sees no CUDA device (TRITON_INTERPRET=1 runs on the CPU)"
    return "available"


def supports(device: torch.device) -> bool:
    """Whether this backend works on tensors of `device`."""
    # The interpreter cannot follow the table's addresses into a device's memory.
    return device.type == ("cpu" if _interpreting() else "cuda")


def _triton_type(dtype: torch.dtype):
    import triton.language as tl

    names = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16,
             torch.int8: tl.int8}  # fmt: skip
    return names[dtype]


def _shape(tensors: list[Tensor]) -> tuple[int, int]:
    """Tiles a program and Philox calls a Gaussian step."""
    if tensors[0].device.type == "cuda":
        return TILES, GROUPS
    most = max(t.numel() for t in tensors) // TILE
    tiles = min(INTERPRETED_TILES, 1 << most.bit_length())
    return tiles, tiles * 512


def _on(device: torch.device):
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def add_noise_(p: Pass) -> None:
    """Performs the pass in place; one launch, whatever the number of tensors and seeds."""
    from . import triton_kernels

    device, count, seeds = p.tensors[0].device, len(p.tensors), p.count
    tiles, groups = _shape(p.tensors)
    with _on(device):
        table = describe(p, tiles)
        scales = table.rows if table.scales is None else table.scales
        integers, floats = scalars(p)
        options = _options(p, tiles)
        grid = (table.chunks,)
        if p.distribution == "rademacher":
            triton_kernels.add_signs[grid](
                table.rows, scales, integers, floats, count, seeds, SINGLE=seeds == 1, **options
            )
        else:
            triton_kernels.add_gaussians[grid](
                table.rows, scales, integers, floats, gaussian_table(device), count, seeds,
                GROUPS=groups, **options,
            )  # fmt: skip


def add_noise_sequence_(s: PassSequence) -> None:
    """Performs the passes in place; one launch, weights in registers through all records."""
    from . import triton_sequence

    device, count = s.tensors[0].device, len(s.tensors)
    tiles, groups = _shape(s.tensors)
    with _on(device):
        table = describe(s, tiles)
        scales = table.rows if table.scales is None else table.scales
        records, integers, floats = s.packed()
        number, options, grid = len(records), _options(s, tiles), (table.chunks,)
        if s.distribution == "rademacher":
            triton_sequence.add_signs_sequence[grid](
                table.rows, scales, records, integers, floats, count, number, **options
            )
        else:
            triton_sequence.add_gaussians_sequence[grid](
                table.rows, scales, records, integers, floats, gaussian_table(device), count,
                number, GROUPS=groups, **options,
            )  # fmt: skip


def _options(p: Pass | PassSequence, tiles: int) -> dict[str, object]:
    """What a kernel of passes is compiled for."""
    dtype = p.tensors[0].dtype
    return {
        "TILES": tiles,
        "DTYPE": _triton_type(dtype),
        "STOCHASTIC": p.stochastic and dtype != torch.float32,
        "HAS_PREV": p.prev is not None,
        "HAS_V": p.v is not None,
        "FORM": _triton_type(p.form),
        "num_warps": NUM_WARPS,
        "enable_fp_fusion": False,  # the law rounds products and sums
    }


def noise_dots(d: Dots) -> Tensor:
    """int64 [T, 2] on the device: v.n in units of 2^-40 and n.n in units of 2^-24."""
    from . import triton_dots

    device, count = d.vectors[0].device, len(d.vectors)
    tiles, groups = _shape(d.vectors)
    with _on(device):
        table = describe(d, tiles)
        scales = table.rows if table.scales is None else table.scales
        integers, _ = scalars(d)
        sums = torch.zeros(count, 2, dtype=torch.int64, device=device)
        options = {"TILES": tiles, "FORM": _triton_type(d.form), "num_warps": NUM_WARPS,
                   "enable_fp_fusion": False}  # fmt: skip
        grid = (table.chunks,)
        if d.distribution == "rademacher":
            triton_dots.dot_signs[grid](table.rows, scales, integers, sums, count, **options)
        else:
            triton_dots.dot_gaussians[grid](
                table.rows, scales, integers, gaussian_table(device), sums, count, GROUPS=groups,
                **options,
            )  # fmt: skip
        if d.distribution == "rademacher":  # the number of elements, which the table knows
            sums[:, 1] = table.rows[:, NUMEL] * int(DOT_NN_SCALE)
    return sums
