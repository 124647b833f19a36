"""Checks of arguments: every refusal names the argument, the value and the way out."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .passes import DECAY, LIVE
from .transfer import moved

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BEYOND = 2.0**128 - 2.0**103  # what rounds to infinity in fp32
LAST = 2**63 - 4096  # a tile more must still be counted in 64 bits with a sign
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


def numbers(
    name: str, values: Iterable[int] | Tensor, count: int | None, bound: int
) -> list[int] | Tensor:
    """As `integers`; an int64 tensor [count] stays where it is, its values unseen."""
    if not isinstance(values, Tensor):
        return integers(name, values, count, bound)
    if values.dtype != torch.int64 or values.dim() != 1:
        raise TypeError(
            f"{name} is a {values.dtype} tensor of shape {tuple(values.shape)}: give int64 [K]"
        )
    if count is not None and len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries where {count} are needed")
    return values.detach()


def coefficients(
    device: torch.device, count: int, seeds: int, coeffs: Any, decay: Any, prev: Any, v: Any
) -> Tensor:
    """A pass's floats, fp32 [count, 4 + seeds]: on `device` if any is a tensor, else on the CPU.

    Numbers that are not finite in fp32 raise ValueError. Tensors stay unseen: where one of them is
    not finite, `live` is 0 for all. It is 0, too, for a tensor that its coefficients leave as it
    is (decay 1, all others 0).
    """
    if (row := _same_for_all(coeffs, decay, prev, v)) is not None and len(row) == 4 + seeds:
        return torch.tensor([row], dtype=torch.float32).expand(count, 4 + seeds)
    unseen = any(isinstance(value, Tensor) for value in (coeffs, decay, prev, v))
    home = device if unseen else torch.device("cpu")
    table = torch.cat(
        [
            _column("decay", decay, count, home),
            _column("prev_coeffs", prev, count, home),
            _column("v_coeffs", v, count, home),
            torch.zeros(count, 1, device=home),
            _table(coeffs, count, seeds, home),
        ],
        dim=1,
    )
    return with_live(table)


def with_live(floats: Tensor) -> Tensor:
    """A pass's floats, fp32 [T, 4 + K], anew, with the column `live` (3, given as 0) filled.

    0 for a tensor that its coefficients leave as it is (decay 1, all others 0), and for all
    tensors if a number is not finite; else 1. Waits for no device.
    """
    identity, is_live = _identity(floats.shape[1], floats.device)
    # fp64: finite numbers of fp32 add up to a finite one, and what is not finite stays so.
    total = floats.sum(dtype=torch.float64)
    finite = total - total == 0.0  # half the operations of isfinite
    changes = (floats != identity).any(dim=1, keepdim=True)
    return torch.where(is_live, changes & finite, floats)


def _same_for_all(coeffs: Any, decay: Any, prev: Any, v: Any) -> list[float] | None:
    """One row for all tensors, where all are finite Python numbers; else None."""
    if not isinstance(coeffs, (list, tuple)):
        return None
    given = [decay, prev, v, 0.0, *coeffs]
    if not all(type(x) in (float, int) and abs(x) < BEYOND for x in given):
        return None
    row = array("f", given).tolist()  # as fp32 has them
    row[LIVE] = float(row[DECAY] != 1.0 or any(row[1:]))
    return row


@lru_cache(maxsize=64)
def _identity(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Floats that leave a tensor as it is, fp32 [width], and which of them is `live`, bool."""
    column = torch.arange(width, device=device)
    return (column == DECAY).float(), column == LIVE


def _values(name: str, given: Any, device: torch.device) -> Tensor:
    """`given` as fp32 on `device`, checked if it is no tensor."""
    if isinstance(given, Tensor):
        return moved(given.detach(), device).to(torch.float32)
    values = torch.as_tensor(given, dtype=torch.float64).to(torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} holds a number that is not finite in fp32: {values.tolist()}")
    return moved(values, device)


def _column(name: str, given: Any, count: int, device: torch.device) -> Tensor:
    """One number, or [T], as [T, 1]."""
    if isinstance(given, (int, float)) and abs(given) < BEYOND:
        # The usual case: a fill, where a tensor would have to be copied.
        return torch.full((count, 1), float(given), device=device, dtype=torch.float32)
    values = _values(name, given, device)
    if values.shape not in ((), (count,)):
        raise ValueError(f"{name} has shape {tuple(values.shape)}: give a number or {count}")
    return values.expand(count).unsqueeze(1)


def _table(given: Any, tensors: int, seeds: int, device: torch.device) -> Tensor:
    """[K] or [T, K] as [T, K]."""
    values = _values("coeffs", given, device)
    if values.shape not in ((seeds,), (tensors, seeds)):
        raise ValueError(
            f"coeffs has shape {tuple(values.shape)} for {seeds} seeds and {tensors} tensors: "
            f"give [{seeds}] or [{tensors}, {seeds}]"
        )
    return values.expand(tensors, seeds)


def check_extent(tensors: list[Tensor], offsets: list[int]) -> None:
    """Refuses offsets whose last element's index does not fit."""
    for i, (tensor, offset) in enumerate(zip(tensors, offsets)):
        if offset + tensor.numel() > LAST:
            raise ValueError(
                f"offsets[{i}]={offset} reaches past element {LAST}: use a smaller one"
            )
