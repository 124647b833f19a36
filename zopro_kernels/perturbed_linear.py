"""A linear layer by sequence: each block of tokens times its own perturbed copy of a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from . import linear_triton, triton_backend
from .arguments import check_tensors
from .copies import Copies, described
from .perturbed import in_place, perturbed_into, serving
from .room import Room


def perturbed_linear(
    x: Tensor,
    weight: Tensor,
    seeds: Sequence[int] | Tensor,
    coeffs: Sequence[float] | Tensor,
    *,
    backend: str | None = None,
    **options: Any,
) -> Tensor:
    """y[k] = x[k] perturbed(weight)[k]^T: a new tensor [K, T, out] of x's dtype.

    x: [K, T, in], fp32, bf16 or fp16; weight: [out, in], fp32, bf16 or fp16, on x's device; both
    are read only. seeds, coeffs and options: those of `zk.perturbed` but `out`. Copy k has the bits
    that it gives, rounded to the weight's dtype and then to x's; products are summed in fp32 (by
    "reference" and "cpu" as torch sums them). On "triton" copies are made in registers and never
    stored; elsewhere some at a time, 512 KiB of them on a CPU.

    Raises ValueError or TypeError where x does not fit, and as `zk.perturbed` does.
    """
    check_tensors("weight", [weight])
    if weight.dim() != 2:
        raise ValueError(f"weight is {tuple(weight.shape)}: give a matrix [out, in]")
    if not isinstance(x, Tensor) or x.dtype not in linear_triton.DTYPES:
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x is {what}: give a tensor of fp32, bf16 or fp16")
    copies = described("weight", weight, seeds, coeffs, **options)
    count, ins = len(copies.integers), weight.shape[1]
    if x.dim() != 3 or x.shape[::2] != (count, ins) or x.device != weight.device:
        raise ValueError(
            f"x is {tuple(x.shape)} on {x.device}: give [{count}, T, {ins}] on {weight.device}, a "
            "block of tokens for each of seeds"
        )
    return linear_of(x.detach(), copies, Room(), backend)


def linear_of(x: Tensor, copies: Copies, room: Room, backend: str | None = None) -> Tensor:
    """`perturbed_linear` of what is checked: x [G, T, in], `copies` of G members without `out`.

    room: where copies are made, if they are. x may be of any floating dtype that torch multiplies.
    """
    groups, tokens, ins = x.shape
    outs = copies.tensor.numel() // ins if ins else 0
    module = serving(copies.tensor.device, backend)
    y = torch.empty(groups, tokens, outs, dtype=x.dtype, device=x.device)
    if module is triton_backend and x.dtype in linear_triton.DTYPES:
        if y.numel():
            linear_triton.perturbed_linear(x.contiguous(), in_place(copies), y)
        return y
    weight = copies.tensor
    at_once = room.rows(weight.device, weight.numel() * weight.element_size())
    for first in range(0, groups, at_once):
        part = slice(first, first + at_once)
        out = room.copies(min(at_once, groups - first), (outs, ins), weight)
        own = replace(
            copies, out=out.view(len(out), -1), integers=copies.integers[part],
            floats=copies.floats[part],
        )  # fmt: skip
        perturbed_into(own, backend)
        torch.bmm(x[part], out.to(x.dtype).transpose(1, 2), out=y[part])
    return y
