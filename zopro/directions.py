"""Seeds of steps and roundings, and the directions of one step with the pass that adds them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

import zopro_kernels as zk

from .devices import common_device, moved

MASK = (1 << 64) - 1

# First word of the hash: what a seed is for. Two purposes never share a seed.
DIRECTION, ROUNDING, CALIBRATION = 0, 1, 2


def _mix(x: int) -> int:
    """The output function of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def derive_seed(seed: int, purpose: int, counter: int) -> int:
    """A 64-bit seed from (base seed, purpose, counter); no global generator is involved.

    For one base seed and purpose, different counters below 2^64 give different seeds.
    """
    return _mix(_mix(_mix(seed) ^ purpose) ^ counter)


@dataclass(eq=False)
class Direction:
    """z = noise[t] n(seed, stream) + prev[t] prev_t + v[t] v_t for each tensor t; fp64 [T],
    on the plan's device."""

    seed: int
    stream: int
    noise: Tensor
    prev: Tensor | None = None
    v: Tensor | None = None


Term = tuple[Direction, Tensor]  # a direction and its scale in each tensor, fp64 [T]


@dataclass(eq=False)
class Part:
    """Tensors of one dtype and device, which one launch writes, and their places; None for all."""

    tensors: zk.TensorSet
    index: Tensor | None = None  # int64, on the plan's device

    def of_rows(self, values: Tensor) -> Tensor:
        return values if self.index is None else values.index_select(0, self.index)


class Prepared:
    """Tensor sets that stay prepared over the steps, as long as they hold the same tensors."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[list, list[zk.TensorSet]]] = {}

    def of(
        self, name: str, tensors: list[Tensor | None], make: Callable[[], list[zk.TensorSet]]
    ) -> list[zk.TensorSet]:
        """What `make` makes of these very tensors, now or before."""
        known, sets = self._kept.get(name, ([], []))
        same = len(known) == len(tensors) and all(map(operator.is_, known, tensors))
        if not same or any(s.refreshed() for s in sets):  # moved or cast since the last step
            sets = make()
            self._kept[name] = tensors, sets
        return sets


@dataclass(eq=False)
class Plan:
    """What one step works on, fixed at its first estimate: T tensors and K directions.

    `tensors` are the trainable parameters (written in place by `write`), `indices` their indices
    in the noise law, `group_of` the position of their group, `eps` fp64 [T] on `device`, as all
    that is computed a tensor: the tensors' own, or the CPU where they are on several. `prev` and
    `v` are the targets' fp32 tensors, or None.
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
        given = [*self.tensors, *(self.prev or ()), None, *(self.v or ())]
        sets = self.prepared.of("weights", given, lambda: list(map(self._set_of, kinds.values())))
        if len(sets) == 1:
            return [Part(sets[0])]
        return [
            Part(tensors, moved(torch.tensor(rows), self.device))
            for tensors, rows in zip(sets, kinds.values())
        ]

    def _set_of(self, rows: list[int]) -> zk.TensorSet:
        def of(values: list | None) -> list | None:
            return None if values is None else [values[t] for t in rows]

        return zk.TensorSet(
            of(self.tensors), params=of(self.indices), prev=of(self.prev), v=of(self.v)
        )

    def write(
        self, part: Part, terms: list[Term], decay: Tensor | None, rounding_seed: int
    ) -> None:
        """theta[t] <- decay[t] theta[t] + sum over terms of scale[t] z[t], in place, for the
        tensors of `part`: one launch, for which the host does not wait. Where a coefficient is not
        finite, nothing is written. Autograd is not told (`TensorSet.mark_written`).

        Tensors that this leaves as they are keep their bits, -0.0 included.
        """
        directions = [d for d, _ in terms]
        columns = [
            self.ones if decay is None else decay,
            _sum([(d.prev, s) for d, s in terms], self.zeros),
            _sum([(d.v, s) for d, s in terms], self.zeros),
            self.zeros,
            *(d.noise * scale for d, scale in terms),
        ]
        floats = zk.with_live(torch.stack(columns, dim=1).float())
        numbers = [rounding_seed, *(d.seed for d in directions), *(d.stream for d in directions)]
        part.tensors.add_noise_(
            zk.integers(numbers, part.tensors.device),
            part.of_rows(floats),
            distribution=self.distribution,
            stochastic=self.rounding == "stochastic",
            backend=self.backend,
        )

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


def draw(seed: int, count: int, tensors: list[Tensor]) -> list[Direction]:
    """`count` plain directions z = n: one seed, the stream is the direction's number."""
    ones = torch.ones(len(tensors), dtype=torch.float64, device=common_device(tensors))
    return [Direction(seed, k, ones) for k in range(count)]
