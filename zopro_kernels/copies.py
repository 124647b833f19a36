"""What perturbed copies of one tensor are made of; their arguments, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import (
    check_distribution,
    check_extent,
    check_tensors,
    coefficients,
    integers,
    numbers,
)
from .passes import joined
from .stored import Int8Blocks, Stored, check_stored

ROUNDING, SEED, STREAM, ROW = 0, 1, 2, 3  # columns of the integers


@dataclass
class Copies:
    """out[k] <- theta + coeff_k n(seed_k, stream_k) + prev_coeff_k prev[row_k] + v_coeff_k v.

    out: [K, N], contiguous, written, or None where the copies are not kept; tensor: [N],
    contiguous, of its dtype. Beside them `integers`, int64 [K, 4]: rounding seed, seed, stream, row
    of prev; and `floats`, fp32 [K, 5]: decay, prev_coeff, v_coeff, live (0: a plain copy), coeff.
    prev: [R, N] fp32 or bf16, or Int8Blocks (R = 1); v: [N] in the same form.
    """

    out: Tensor | None
    tensor: Tensor
    integers: Tensor
    floats: Tensor
    param: int = 0
    offset: int = 0
    distribution: str = "rademacher"
    stochastic: bool = False
    prev: Stored | None = None
    v: Stored | None = None

    @property
    def form(self) -> torch.dtype:
        """Of prev and v; torch.int8 for Int8Blocks."""
        given = self.v if self.prev is None else self.prev
        return torch.float32 if given is None else given.dtype


def described(
    name: str,
    tensor: Tensor,
    seeds: Sequence[int] | Tensor,
    coeffs: Sequence[float] | Tensor,
    *,
    streams: Sequence[int] | Tensor | None = None,
    param: int = 0,
    offset: int = 0,
    distribution: str = "rademacher",
    rounding: str = "nearest",
    rounding_seed: int | None = None,
    prev: Stored | None = None,
    prev_coeffs: float | Sequence[float] | Tensor = 0.0,
    prev_rows: Sequence[int] | Tensor | None = None,
    v: Stored | None = None,
    v_coeffs: float | Sequence[float] | Tensor = 0.0,
) -> Copies:
    """`zk.perturbed`'s arguments, checked, with nowhere to write; `name` is the tensor's."""
    check_distribution(distribution)
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"rounding={rounding!r} is not known: use 'nearest' or 'stochastic'")
    check_tensors(name, [tensor])
    check_extent([tensor], [integers("offset", [offset], 1, 2**63)[0]])
    (param,) = integers("param", [param], 1, 2**32)
    device, shape = tensor.device, tuple(tensor.shape)
    seeds = numbers("seeds", seeds, None, 2**64)
    count = len(seeds)
    streams = numbers("streams", [0] * count if streams is None else streams, count, 2**32)
    many = _many_prev(tensor, prev)
    rows = _rows(prev_rows, many, count)
    seed = seeds
    if rounding_seed is not None:
        seed = integers("rounding_seed", [rounding_seed], 1, 2**64) * count
    table = joined([seed, seeds, streams, rows], device) if count else torch.empty(0)
    table = table.view(4, count).t().contiguous()
    floats = _floats(device, count, coeffs, prev_coeffs, v_coeffs)
    _check_beside("prev", prev, shape if not many else (len(prev), *shape), device, offset)
    _check_beside("v", v, shape, device, offset)
    if prev is not None and v is not None and prev.dtype != v.dtype:
        raise TypeError(f"v is kept as {v.dtype} where prev is {prev.dtype}: keep both in one form")
    return Copies(
        None, tensor.detach().reshape(-1), table, floats, param, offset, distribution,
        rounding == "stochastic", prev, v,
    )  # fmt: skip


def _floats(device: torch.device, count: int, coeffs: object, prev: object, v: object) -> Tensor:
    """fp32 [K, 5]: decay, prev_coeff, v_coeff, live, coeff."""
    if len(coeffs) != count:
        raise ValueError(f"coeffs has {len(coeffs)} entries where {count} are needed")
    if not count:
        return torch.empty(0, 5, device=device)
    by_copy = coeffs.view(-1, 1) if isinstance(coeffs, Tensor) else [[c] for c in coeffs]
    return coefficients(device, count, 1, by_copy, 1.0, prev, v)


def _many_prev(tensor: Tensor, prev: Stored | None) -> bool:
    return isinstance(prev, Tensor) and prev.dim() == tensor.dim() + 1


def _rows(given: Sequence[int] | Tensor | None, many: bool, count: int) -> list[int] | Tensor:
    if not many:
        if given is not None:
            raise ValueError("prev_rows picks rows of a prev of shape [R, *tensor.shape]: give one")
        return [0] * count
    if given is None:
        raise ValueError("prev has a row for each of several directions: say prev_rows, [K]")
    return numbers("prev_rows", given, count, 2**31)


def _check_beside(
    name: str, x: Stored | None, shape: tuple[int, ...], device: torch.device, offset: int
) -> None:
    if x is None:
        return
    check_stored(name, [x])
    if tuple(x.shape) != tuple(shape) or x.device != device:
        raise ValueError(
            f"{name} is {tuple(x.shape)} on {x.device}: give {tuple(shape)} on {device}"
        )
    if isinstance(x, Int8Blocks) and x.offset != offset:
        raise ValueError(f"{name} has blocks from offset {x.offset}: make it with offset={offset}")
