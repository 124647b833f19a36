"""What steps share: kept from one to the next, made anew when what it is of has changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor

import zopro_kernels as zk

from .devices import capturing, common_device, moved
from .trainable import Members

REMEMBERED = 64  # short constants kept on their devices


@dataclass(eq=False)
class Part:
    """Tensors of one dtype and device, which one launch writes, and their places; None for all."""

    tensors: zk.TensorSet
    index: Tensor | None = None  # int64, on the device of the plan's numbers

    def of_rows(self, values: Tensor) -> Tensor:
        return values if self.index is None else values.index_select(0, self.index)


@dataclass(eq=False)
class Placed:
    """Where trainable tensors lie: a part for each dtype and device; the device of what is computed
    a tensor, theirs, or the CPU where they are on several."""

    device: torch.device
    parts: list[Part]


class Multiples:
    """m * eps, fp64 [T], for m of -2, -1, 1 and 2, each one tensor that is known again: the scales
    of the passes between theta, theta + eps z and theta - eps z.

    `plain`: floats of the passes of plain directions by m; they are the same in every step.
    """

    def __init__(self, eps: Tensor) -> None:
        self._tensors = {1: eps, -1: -eps, 2: 2.0 * eps, -2: -2.0 * eps}
        self._factors = {id(x): m for m, x in self._tensors.items()}
        self.plain: dict[int, Tensor] = {}

    def __getitem__(self, factor: int) -> Tensor:
        return self._tensors[factor]

    def factor(self, scale: Tensor) -> int | None:
        """m, where `scale` is one of these tensors."""
        return self._factors.get(id(scale))

    def negative(self, scale: Tensor) -> Tensor:
        m = self.factor(scale)
        return -scale if m is None else self._tensors[-m]

    def plus(self, a: Tensor, b: Tensor) -> Tensor:
        m = (self.factor(a) or 0) + (self.factor(b) or 0)
        exact = self.factor(a) is not None and self.factor(b) is not None
        return self._tensors[m] if exact and m in self._tensors else a + b


class Prepared:
    """What stays on its device over the steps."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Sequence, Any]] = {}
        self._constants: OrderedDict[tuple, Tensor] = OrderedDict()
        self._spread: OrderedDict[tuple, tuple[list[int], Tensor]] = OrderedDict()

    def of(self, name: str, given: Sequence, make: Callable[[], Any]) -> Any:
        """What `make` makes of these very objects, now or before."""
        known, made = self._kept.get(name, (None, None))
        if known is None or len(known) != len(given) or not all(map(is_, known, given)):
            made = make()
            self._kept[name] = given, made
        return made

    def forget(self, name: str) -> None:
        """The next `of` makes it anew."""
        self._kept.pop(name, None)

    def placed(self, members: Members, prev: list | None, v: list | None) -> Placed:
        """The tensors of `members` with what lies beside them, where they are now: one look at each
        address, shape and stride."""
        given = [members, prev, v]

        def make() -> Placed:
            return _placed(members, prev, v)

        placed = self.of("placed", given, make)
        if any(part.tensors.refreshed() for part in placed.parts):  # moved or cast since
            self.forget("placed")
            placed = self.of("placed", given, make)
        return placed

    def multiples(self, eps: Tensor) -> Multiples:
        return self.of("multiples", [eps], lambda: Multiples(eps))

    def constants(
        self, values: Iterable[float], device: torch.device, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Numbers of the host on `device`, read only; a copy the first time."""
        key = (tuple(values), device, dtype)
        if key in self._constants:
            self._constants.move_to_end(key)
        else:
            self._constants[key] = _sent(key[0], device, dtype)
            if len(self._constants) > REMEMBERED:
                self._constants.popitem(last=False)
        return self._constants[key]

    def spread(
        self, values: tuple[float, ...], group_of: list[int], device: torch.device
    ) -> Tensor:
        """One number a group as one a tensor, fp64 [T] on `device`, read only; a copy the first
        time. For one `group_of` after another: the same numbers are the same tensor."""
        known, made = self._spread.get((values, device), (None, None))
        if known is group_of:
            self._spread.move_to_end((values, device))
            return made
        made = _sent([values[g] for g in group_of], device, torch.float64)
        self._spread[values, device] = group_of, made
        if len(self._spread) > REMEMBERED:
            self._spread.popitem(last=False)
        return made


def _placed(members: Members, prev: list | None, v: list | None) -> Placed:
    kinds: dict[tuple, list[int]] = {}
    for t, p in enumerate(members.tensors):
        kinds.setdefault((p.dtype, p.device), []).append(t)
    device = common_device(members.tensors)
    sets = [tensor_set(members, rows, prev, v) for rows in kinds.values()]
    if len(sets) == 1:
        return Placed(device, [Part(sets[0])])
    return Placed(
        device,
        [
            Part(tensors, moved(torch.tensor(rows), device))
            for tensors, rows in zip(sets, kinds.values())
        ],
    )


def tensor_set(
    members: Members,
    rows: list[int],
    prev: list | None,
    v: list | None,
    copies: list[Tensor] | None = None,
) -> zk.TensorSet:
    """The tensors at `rows`, or `copies` of them, prepared for passes."""

    def of(values: list | None) -> list | None:
        return None if values is None else [values[t] for t in rows]

    tensors = of(members.tensors) if copies is None else copies
    return zk.TensorSet(tensors, params=of(members.indices), prev=of(prev), v=of(v))


def _sent(values: Sequence[float], device: torch.device, dtype: torch.dtype) -> Tensor:
    if capturing():
        raise RuntimeError(
            "a step that is captured may not copy from the host: take a few steps before "
            "the capture, and change no option of a group but a tensor lr after them"
        )
    return moved(torch.tensor(values, dtype=dtype), device)
