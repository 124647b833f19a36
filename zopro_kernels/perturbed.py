"""Many perturbed copies of one tensor in one call: what each sequence of a batch is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from . import cpu, dispatch, perturbed_triton, reference, triton_backend
from .copies import ROW, Copies, described
from .passes import Pass
from .stored import Int8Blocks, Stored
from .transfer import moved


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
    copies = described(
        "tensor", tensor, seeds, coeffs, streams=streams, param=param, offset=offset,
        distribution=distribution, rounding=rounding, rounding_seed=rounding_seed, prev=prev,
        prev_coeffs=prev_coeffs, prev_rows=prev_rows, v=v, v_coeffs=v_coeffs,
    )  # fmt: skip
    shape = (len(copies.integers), *tensor.shape)
    if out is None:
        out = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
    _check_out(out, shape, tensor)
    perturbed_into(replace(copies, out=out.view(shape[0], tensor.numel())), backend)
    return out


def perturbed_into(copies: Copies, backend: str | None = None) -> None:
    """Writes `copies.out`; nothing is checked but that the backend serves."""
    if copies.out.numel():
        _SERVING[serving(copies.tensor.device, backend)](in_place(copies))


def in_place(copies: Copies) -> Copies:
    """All on the tensor's device, contiguous."""
    device = copies.tensor.device
    return replace(
        copies,
        integers=moved(copies.integers, device).contiguous(),
        floats=moved(copies.floats, device).contiguous(),
        prev=_flat(copies.prev),
        v=_flat(copies.v),
    )


def serving(device: torch.device, backend: str | None) -> ModuleType:
    """As dispatch.choose; the CUDA C++ module has no such kernel, and Triton's serves for it."""
    module = dispatch.choose(device, backend)
    if module in _SERVING:
        return module
    if backend is not None:
        raise ValueError(f"backend={backend!r} makes no perturbed copies: use 'triton' or None")
    return triton_backend if triton_backend.status() == "available" else reference


def _flat(x: Stored | None) -> Stored | None:
    return x if x is None or isinstance(x, Int8Blocks) else x.detach().contiguous()


def _check_out(out: Tensor, shape: tuple[int, ...], tensor: Tensor) -> None:
    right = out.shape == shape and out.dtype == tensor.dtype and out.device == tensor.device
    if not (right and out.is_contiguous()):
        raise ValueError(
            f"out is {out.dtype} {tuple(out.shape)} on {out.device}: give {tensor.dtype} {shape}, "
            f"contiguous, on {tensor.device}"
        )


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
