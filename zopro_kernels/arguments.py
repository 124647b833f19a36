"""Checks of arguments: every refusal names the argument, the value and the way out."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DISTRIBUTIONS = ("rademacher", "gaussian")


def check_distribution(distribution: str) -> None:
    if distribution not in DISTRIBUTIONS:
        raise ValueError(
            f"distribution={distribution!r} is not known: use 'rademacher' or 'gaussian'"
        )


def check_tensors(
    name: str, tensors: Sequence[Tensor], dtypes: tuple[torch.dtype, ...] = DTYPES
) -> list[Tensor]:
    """`tensors` as a list of dense tensors that have memory, of one of `dtypes`."""
    if isinstance(tensors, Tensor):
        raise TypeError(f"{name} is one tensor: give a list of tensors")
    tensors = list(tensors)
    names = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
    for i, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}[{i}] is a {type(t).__name__}: give a torch.Tensor")
        if t.dtype not in dtypes:
            raise TypeError(f"{name}[{i}] has dtype {t.dtype}: use one of {names}")
        if t.layout != torch.strided or t.device.type == "meta":
            where = "the meta device" if t.device.type == "meta" else f"layout {t.layout}"
            raise ValueError(f"{name}[{i}] is on {where}: give a dense tensor that has memory")
        if not t.is_contiguous() and any(
            stride == 0 and size > 1 for size, stride in zip(t.shape, t.stride())
        ):
            raise ValueError(f"{name}[{i}] is expanded (stride 0): give one that owns its elements")
    return tensors


def integers(name: str, values: Iterable[int], count: int | None, bound: int) -> list[int]:
    """`values` as a list of `count` ints (any number if None), each in [0, bound)."""
    if isinstance(values, (int, float, str)):
        raise TypeError(f"{name}={values!r} is no list: give a list of integers")
    try:
        out = [operator.index(v) for v in values]
    except TypeError as error:
        raise TypeError(f"{name} must hold integers: {error}") from None
    if count is not None and len(out) != count:
        raise ValueError(f"{name} has {len(out)} entries where {count} are needed")
    for v in out:
        if not 0 <= v < bound:
            raise ValueError(f"{name} has {v}: it must be from 0 to {bound - 1}")
    return out


def _finite(name: str, values: Tensor) -> Tensor:
    values = values.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} holds a number that is not finite in fp32: {values.tolist()}")
    return values


def per_tensor(name: str, value: float | Sequence[float] | Tensor, count: int) -> Tensor:
    """One number, or [T], as fp32 [T] on the CPU."""
    values = _finite(name, torch.as_tensor(value, dtype=torch.float64))
    if values.dim() == 0:
        return values.repeat(count)
    if values.shape != (count,):
        raise ValueError(f"{name} has shape {tuple(values.shape)}: give a number or {count}")
    return values


def coefficient_table(
    coeffs: Sequence[float] | Sequence[Sequence[float]] | Tensor, tensors: int, seeds: int
) -> Tensor:
    """[K] or [T, K] as fp32 [T, K] on the CPU, contiguous."""
    table = _finite("coeffs", torch.as_tensor(coeffs, dtype=torch.float64))
    if table.shape == (seeds,):
        return table.repeat(tensors, 1)
    if table.shape != (tensors, seeds):
        raise ValueError(
            f"coeffs has shape {tuple(table.shape)} for {seeds} seeds and {tensors} tensors: "
            f"give [{seeds}] or [{tensors}, {seeds}]"
        )
    return table.contiguous()
