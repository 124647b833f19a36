"""Seeds of steps and roundings, and the directions of one step with the pass that adds them."""

from __future__ import annotations

from dataclasses import dataclass
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
    """Tensors of one dtype and device, which one launch writes: their places, or None for all."""

    rows: list[int] | None = None
    index: Tensor | None = None  # the same as int64, on the plan's device

    def of(self, values: list | None) -> list | None:
        if values is None or self.rows is None:
            return values
        return [values[t] for t in self.rows]

    def of_vector(self, values: Tensor) -> Tensor:
        return values if self.index is None else values.index_select(0, self.index)


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

    @property
    def device(self) -> torch.device:
        return self.eps.device

    @cached_property
    def parts(self) -> list[Part]:
        """One for each dtype and device."""
        kinds: dict[tuple, list[int]] = {}
        for t, p in enumerate(self.tensors):
            kinds.setdefault((p.dtype, p.device), []).append(t)
        if len(kinds) == 1:
            return [Part()]
        return [Part(rows, moved(torch.tensor(rows), self.device)) for rows in kinds.values()]

    def write(
        self, part: Part, terms: list[Term], decay: Tensor | None, rounding_seed: int
    ) -> None:
        """theta[t] <- decay[t] theta[t] + sum over terms of scale[t] z[t], in place, for the
        tensors of `part`: one launch, for which the host does not wait.

        Tensors that this leaves as they are keep their bits, -0.0 included.
        """
        noise = torch.stack([d.noise * scale for d, scale in terms], dim=1)  # [T, K]
        prev, v = _sum([(d.prev, s) for d, s in terms]), _sum([(d.v, s) for d, s in terms])
        zk.add_noise_(
            [p.detach() for p in part.of(self.tensors)],
            [d.seed for d, _ in terms],
            part.of_vector(noise),
            decay=1.0 if decay is None else part.of_vector(decay),
            distribution=self.distribution,
            params=part.of(self.indices),
            streams=[d.stream for d, _ in terms],
            rounding=self.rounding,
            rounding_seed=rounding_seed,
            prev=None if prev is None else part.of(self.prev),
            prev_coeffs=0.0 if prev is None else part.of_vector(prev),
            v=None if v is None else part.of(self.v),
            v_coeffs=0.0 if v is None else part.of_vector(v),
            backend=self.backend,
        )


def _sum(pairs: list[tuple[Tensor | None, Tensor]]) -> Tensor | None:
    products = [coefficients * scale for coefficients, scale in pairs if coefficients is not None]
    return torch.stack(products).sum(dim=0) if products else None


def draw(seed: int, count: int, tensors: list[Tensor]) -> list[Direction]:
    """`count` plain directions z = n: one seed, the stream is the direction's number."""
    ones = torch.ones(len(tensors), dtype=torch.float64, device=common_device(tensors))
    return [Direction(seed, k, ones) for k in range(count)]
