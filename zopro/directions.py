"""Seeds of steps and roundings, and the directions of one step with the pass that adds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import zopro_kernels as zk

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
    """z = noise[t] n(seed, stream) + prev[t] prev_t + v[t] v_t for each tensor t; fp64 [T], CPU."""

    seed: int
    stream: int
    noise: Tensor
    prev: Tensor | None = None
    v: Tensor | None = None


Term = tuple[Direction, Tensor]  # a direction and its scale in each tensor, fp64 [T]


@dataclass(eq=False)
class Plan:
    """What one step works on, fixed at its first estimate: T tensors and K directions.

    `tensors` are the trainable parameters (written in place by `write`), `indices` their indices
    in the noise law, `group_of` the position of their group, `eps` fp64 [T]. `prev` and `v` are
    the targets' fp32 tensors, or None.
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

    def write(self, terms: list[Term], decay: Tensor | None, rounding_seed: int) -> None:
        """theta[t] <- decay[t] theta[t] + sum over terms of scale[t] z[t], in place, one pass.

        Tensors that this leaves as they are take no part: their bits stay, -0.0 included.
        """
        noise = torch.stack([d.noise * scale for d, scale in terms], dim=1)  # [T, K]
        prev, v = _sum([(d.prev, s) for d, s in terms]), _sum([(d.v, s) for d, s in terms])
        touched = (noise != 0).any(dim=1)
        for coefficients in (prev, v, None if decay is None else decay - 1):
            if coefficients is not None:
                touched |= coefficients != 0
        rows = touched.nonzero().flatten().tolist()
        if not rows:
            return
        everything = len(rows) == len(self.tensors)

        def chosen(values):
            if values is None or everything:
                return values
            return values[rows] if isinstance(values, Tensor) else [values[t] for t in rows]

        zk.add_noise_(
            [p.detach() for p in chosen(self.tensors)],
            [d.seed for d, _ in terms],
            chosen(noise),
            decay=1.0 if decay is None else chosen(decay),
            distribution=self.distribution,
            params=chosen(self.indices),
            streams=[d.stream for d, _ in terms],
            rounding=self.rounding,
            rounding_seed=rounding_seed,
            prev=None if prev is None else chosen(self.prev),
            prev_coeffs=0.0 if prev is None else chosen(prev),
            v=None if v is None else chosen(self.v),
            v_coeffs=0.0 if v is None else chosen(v),
            backend=self.backend,
        )


def _sum(pairs: list[tuple[Tensor | None, Tensor]]) -> Tensor | None:
    products = [coefficients * scale for coefficients, scale in pairs if coefficients is not None]
    return torch.stack(products).sum(dim=0) if products else None


def draw(seed: int, count: int, tensors: int) -> list[Direction]:
    """`count` plain directions z = n: one seed, the stream is the direction's number."""
    ones = torch.ones(tensors, dtype=torch.float64)
    return [Direction(seed, k, ones) for k in range(count)]
