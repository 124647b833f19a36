"""The directions of one step, and the pass that adds them to the weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from operator import is_
from typing import Any

import torch
from torch import Tensor

import zopro_kernels as zk

from .devices import common_device, moved

REMEMBERED = 64  # short constants kept on their devices


@dataclass(eq=False)
class Direction:
    """z = noise[t] n(seed, stream) + prev[t] prev_t + v[t] v_t for each tensor t; fp64 [T],
    on the plan's device."""

    seed: int | Tensor  # int64, 0-dim, its bits
    stream: int
    noise: Tensor
    prev: Tensor | None = None
    v: Tensor | None = None
    sound: Tensor | None = None  # bool, 0-dim: False where z had to be 0, as n met no finite v.n


Term = tuple[Direction, Tensor]  # a direction and its scale in each tensor, fp64 [T]


@dataclass(eq=False)
class Part:
    """Tensors of one dtype and device, which one launch writes, and their places; None for all."""

    tensors: zk.TensorSet
    index: Tensor | None = None  # int64, on the plan's device

    def of_rows(self, values: Tensor) -> Tensor:
        return values if self.index is None else values.index_select(0, self.index)


class Prepared:
    """What stays on its device over the steps: made again when the tensors it is of are others."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[list, Any]] = {}
        self._constants: OrderedDict[tuple, Tensor] = OrderedDict()

    def of(self, name: str, tensors: list[Tensor | None], make: Callable[[], Any]) -> Any:
        """What `make` makes of these very tensors, now or before."""
        known, made = self._kept.get(name, (None, None))
        if known is None or len(known) != len(tensors) or not all(map(is_, known, tensors)):
            made = make()
            self._kept[name] = tensors, made
        return made

    def forget(self, name: str) -> None:
        """The next `of` makes it anew."""
        self._kept.pop(name, None)

    def constants(
        self, values: Iterable[float], device: torch.device, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Numbers of the host on `device`, read only; a copy the first time."""
        key = (tuple(values), device, dtype)
        if key in self._constants:
            self._constants.move_to_end(key)
        else:
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    "a step that is captured may not copy from the host: take a few steps before "
                    "the capture, and change no option of a group but a tensor lr after them"
                )
            self._constants[key] = moved(torch.tensor(key[0], dtype=dtype), device)
            if len(self._constants) > REMEMBERED:
                self._constants.popitem(last=False)
        return self._constants[key]


@dataclass(eq=False)
class Plan:
    """What one step works on, fixed at its first estimate: T tensors and K directions.

    `tensors` are the trainable parameters (written in place by `write`), `indices` their indices
    in the noise law, `group_of` the position of their group, `eps` fp64 [T] on `device`, as all
    that is computed a tensor: the tensors' own, or the CPU where they are on several. `prev` and
    `v` are the targets' tensors, or None; `d` is the weight of `prev`.
    """

    tensors: list[Tensor]
    indices: list[int]
    group_of: list[int]
    eps: Tensor
    directions: list[Direction]
    distribution: str
    rounding: str
    backend: str | None
    prev: list[Tensor] | None = None
    v: list[Tensor] | None = None
    d: float | Tensor = 0.0
    prepared: Prepared = field(default_factory=Prepared)

    @property
    def device(self) -> torch.device:
        return self.eps.device

    @cached_property
    def parts(self) -> list[Part]:
        """One for each dtype and device."""
        kinds: dict[tuple, list[int]] = {}
        for t, p in enumerate(self.tensors):
            kinds.setdefault((p.dtype, p.device), []).append(t)

        def make() -> list[Part]:
            sets = [self.set_of(rows, [self.tensors[t] for t in rows]) for rows in kinds.values()]
            if len(sets) == 1:
                return [Part(sets[0])]
            return [
                Part(tensors, moved(torch.tensor(rows), self.device))
                for tensors, rows in zip(sets, kinds.values())
            ]

        given = [*self.tensors, *(self.prev or ()), None, *(self.v or ())]
        parts = self.prepared.of("parts", given, make)
        if any(part.tensors.refreshed() for part in parts):  # moved or cast since the last step
            self.prepared.forget("parts")
            parts = self.prepared.of("parts", given, make)
        return parts

    def set_of(self, rows: list[int], tensors: list[Tensor]) -> zk.TensorSet:
        """`tensors` prepared for the passes of the plan's at `rows`: themselves, or copies."""

        def of(values: list | None) -> list | None:
            return None if values is None else [values[t] for t in rows]

        return zk.TensorSet(tensors, params=of(self.indices), prev=of(self.prev), v=of(self.v))

    def write(
        self, part: Part, terms: list[Term], decay: Tensor | None, rounding_seed: int | Tensor
    ) -> None:
        """theta[t] <- decay[t] theta[t] + sum over terms of scale[t] z[t], in place, for the
        tensors of `part`: one launch, for which the host does not wait. Where a coefficient is not
        finite, nothing is written. Autograd is not told (`TensorSet.mark_written`).

        Tensors that this leaves as they are keep their bits, -0.0 included.
        """
        integers, floats = self.scalars(terms, decay, rounding_seed)
        part.tensors.add_noise_(
            integers,
            part.of_rows(floats),
            distribution=self.distribution,
            stochastic=self.rounding == "stochastic",
            backend=self.backend,
        )

    def scalars(
        self, terms: list[Term], decay: Tensor | None, rounding_seed: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """The scalars of that pass, as TensorSet.add_noise_ takes them, for all tensors."""
        columns = [
            self.ones if decay is None else decay,
            _sum([(d.prev, s) for d, s in terms], self.zeros),
            _sum([(d.v, s) for d, s in terms], self.zeros),
            self.zeros,
            *(d.noise * scale for d, scale in terms),
        ]
        floats = zk.with_live(torch.stack(columns, dim=1).float())
        seeds, streams = [d.seed for d, _ in terms], [d.stream for d, _ in terms]
        if not isinstance(rounding_seed, Tensor):
            return zk.integers([rounding_seed, *seeds, *streams], self.device), floats
        constant = self.prepared.constants(streams, self.device, torch.int64)
        return torch.cat([torch.stack([rounding_seed, *seeds]), constant]), floats

    def stream(self, direction: Direction) -> int | Tensor:
        """The direction's stream, beside its seed."""
        if not isinstance(direction.seed, Tensor):
            return direction.stream
        return self.prepared.constants([direction.stream], self.device, torch.int64)

    def mark_written(self) -> None:
        """Tells autograd that the weights have changed: a graph that has saved one refuses."""
        for part in self.parts:
            part.tensors.mark_written()

    @cached_property
    def ones(self) -> Tensor:
        return torch.ones_like(self.eps)

    @cached_property
    def zeros(self) -> Tensor:
        return torch.zeros_like(self.eps)


def _sum(pairs: list[tuple[Tensor | None, Tensor]], none: Tensor) -> Tensor:
    products = [coefficients * scale for coefficients, scale in pairs if coefficients is not None]
    if len(products) < 2:
        return products[0] if products else none
    return torch.stack(products).sum(dim=0)


def draw(seed: int | Tensor, count: int, tensors: list[Tensor]) -> list[Direction]:
    """`count` plain directions z = n: one seed, the stream is the direction's number."""
    ones = torch.ones(len(tensors), dtype=torch.float64, device=common_device(tensors))
    return [Direction(seed, k, ones) for k in range(count)]
