"""Many perturbed copies of one tensor in one call: what each sequence of a batch is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from . import cpu, dispatch, perturbed_triton, reference, triton_backend
from .arguments import (
    check_distribution,
    check_extent,
    check_tensors,
    coefficients,
    integers,
    numbers,
)
from .passes import Pass, joined
from .stored import Int8Blocks, Stored, check_stored
from .transfer import moved

ROUNDING, SEED, STREAM, ROW = 0, 1, 2, 3  # columns of the integers


@dataclass
class Copies:
    """out[k] <- theta + coeff_k n(seed_k, stream_k) + prev_coeff_k prev[row_k] + v_coeff_k v.

    out: [K, N], contiguous, written; tensor: [N], contiguous, of its dtype. Beside them `integers`,
    int64 [K, 4]: rounding seed, seed, stream, row of prev; and `floats`, fp32 [K, 5]: decay,
    prev_coeff, v_coeff, live (0: a plain copy), coeff. prev: [R, N] fp32 or bf16, or Int8Blocks
    (R = 1); v: [N] in the same form.
    """

    out: Tensor
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


def perturbed(
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
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """K copies of `tensor`, each moved along its own direction: a new tensor [K, *shape].

        out[k] = tensor + coeffs[k] n(seeds[k], streams[k]) + prev_coeffs[k] prev + v_coeffs[k] v

    Copy k has the bits that `zk.add_noise_` with these arguments would leave in a copy of `tensor`,
    on every backend. tensor: fp32, bf16 or fp16, any shape and strides, read only.

    seeds, streams (default 0), coeffs: [K], lists or tensors (int64, int64, floating point), which
    stay on the device and whose values then go unchecked: with one coefficient that is not finite,
    all are plain copies. param, offset, distribution, rounding, rounding_seed (default: each
    copy's own seed): as in `add_noise_`. prev, v: of the tensor's shape, fp32, bf16 or Int8Blocks;
    prev may be [R, *shape] in fp32 or bf16, and copy k then takes prev[prev_rows[k]] (int64 [K],
    from 0 to R - 1). prev_coeffs, v_coeffs: one number, or [K].
    out: [K, *shape] of the tensor's dtype and device, contiguous, to write into.
    backend: "reference", "cpu" or "triton"; None picks.

    Raises ValueError or TypeError for arguments out of range, of another count, shape, dtype or
    device, or (numbers of the host) not finite; RuntimeError for a backend that is not available.
    """
    check_distribution(distribution)
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"rounding={rounding!r} is not known: use 'nearest' or 'stochastic'")
    check_tensors("tensor", [tensor])
    check_extent([tensor], [integers("offset", [offset], 1, 2**63)[0]])
    (param,) = integers("param", [param], 1, 2**32)
    device = tensor.device
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
    shape = (count, *tensor.shape)
    if out is None:
        out = torch.empty(shape, dtype=tensor.dtype, device=device)
    _check_out(out, shape, tensor)
    _check_beside("prev", prev, shape[1:] if not many else (len(prev), *shape[1:]), device, offset)
    _check_beside("v", v, shape[1:], device, offset)
    if prev is not None and v is not None and prev.dtype != v.dtype:
        raise TypeError(f"v is kept as {v.dtype} where prev is {prev.dtype}: keep both in one form")
    perturbed_into(
        Copies(
            out.view(count, tensor.numel()), tensor.detach().reshape(-1), table, floats, param,
            offset, distribution, rounding == "stochastic", prev, v,
        ),
        backend,
    )  # fmt: skip
    return out


def _floats(device: torch.device, count: int, coeffs: object, prev: object, v: object) -> Tensor:
    """fp32 [K, 5]: decay, prev_coeff, v_coeff, live, coeff."""
    if len(coeffs) != count:
        raise ValueError(f"coeffs has {len(coeffs)} entries where {count} are needed")
    if not count:
        return torch.empty(0, 5, device=device)
    by_copy = coeffs.view(-1, 1) if isinstance(coeffs, Tensor) else [[c] for c in coeffs]
    return coefficients(device, count, 1, by_copy, 1.0, prev, v)


def perturbed_into(copies: Copies, backend: str | None = None) -> None:
    """Writes `copies.out`; nothing is checked but that the backend serves."""
    if not copies.out.numel():
        return
    device = copies.tensor.device
    c = replace(
        copies,
        integers=moved(copies.integers, device).contiguous(),
        floats=moved(copies.floats, device).contiguous(),
        prev=_flat(copies.prev),
        v=_flat(copies.v),
    )
    _SERVING[_choose(device, backend)](c)


def _choose(device: torch.device, backend: str | None) -> ModuleType:
    """As dispatch.choose; the CUDA C++ module has no such kernel, and Triton's serves for it."""
    module = dispatch.choose(device, backend)
    if module in _SERVING:
        return module
    if backend is not None:
        raise ValueError(f"backend={backend!r} makes no perturbed copies: use 'triton' or None")
    return triton_backend if triton_backend.status() == "available" else reference


def _flat(x: Stored | None) -> Stored | None:
    return x if x is None or isinstance(x, Int8Blocks) else x.detach().contiguous()


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


def _check_out(out: Tensor, shape: tuple[int, ...], tensor: Tensor) -> None:
    right = out.shape == shape and out.dtype == tensor.dtype and out.device == tensor.device
    if not (right and out.is_contiguous()):
        raise ValueError(
            f"out is {out.dtype} {tuple(out.shape)} on {out.device}: give {tensor.dtype} {shape}, "
            f"contiguous, on {tensor.device}"
        )


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


def _reference(c: Copies) -> None:
    for k, out in enumerate(c.out.unbind()):
        out.copy_(c.tensor)
        prev = c.prev
        if isinstance(prev, Tensor):
            prev = prev.view(-1, len(out))[c.integers[k, ROW]]
        v = c.v.view(-1) if isinstance(c.v, Tensor) else c.v
        reference.add_noise_(
            Pass(
                [out], [c.param], [c.offset], c.distribution, c.integers[k, :ROW],
                c.floats[k : k + 1], *(None if x is None else [x if isinstance(x, Tensor) else
                                       x.part(0, x.numel())] for x in (prev, v)), c.stochastic,
            )
        )  # fmt: skip


def _cpu(c: Copies) -> None:
    cpu._native.perturbed(
        c.tensor.data_ptr(), c.out.data_ptr(), c.tensor.numel(), c.offset, len(c.out), c.param,
        c.integers.data_ptr(), c.floats.data_ptr(), *_addresses(c.prev), *_addresses(c.v),
        cpu._DTYPES[c.tensor.dtype], cpu._DTYPES[c.form], c.distribution == "gaussian",
        c.stochastic, torch.get_num_threads(),
    )  # fmt: skip


def _addresses(x: Stored | None) -> tuple[int, int]:
    """Of the elements, and of the scales of Int8Blocks; 0 where there are none."""
    if x is None:
        return 0, 0
    return x.data_ptr(), x.scales.data_ptr() if isinstance(x, Int8Blocks) else 0


_SERVING = {reference: _reference, cpu: _cpu, triton_backend: perturbed_triton.perturbed}
