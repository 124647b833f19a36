"""A targeted family: the gradient inside the span of what earlier steps have moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

INDEPENDENT = 1e-4  # of an update's length must be left when the earlier ones are taken out


@dataclass(eq=False)
class Family:
    """Orthonormal directions q_1 .. q_m over all trainable parameters.

    basis: for each of T tensors fp32 [m, *shape], on its device; over all of them q_i . q_j is 1
    where i = j, else 0. z_i = sqrt(d) q_i has rms 1 over all d parameters. They take m times the
    memory of the trainable weights in fp32.
    """

    basis: list[Tensor]

    @classmethod
    def of(cls, updates: Sequence[list[Tensor]], params: Sequence[Tensor]) -> Family:
        """Gram and Schmidt's, twice (Giraud et al. 2005: that is enough), in fp64 sums.

        updates: m lists of T tensors, of the parameters' shapes; the first are kept as they are but
        for length. Raises ValueError for one that lies in the span of those before it.
        """
        rows: list[list[Tensor]] = []
        for i, update in enumerate(updates):
            row = [u.detach().to(p.device, torch.float32) for u, p in zip(update, params)]
            length = whole = _dot(row, row) ** 0.5
            for _ in range(2):
                for known in rows:
                    inner = _dot(known, row)
                    row = [x - inner * q for x, q in zip(row, known)]
                length = _dot(row, row) ** 0.5
            if not length > INDEPENDENT * whole:
                raise ValueError(
                    f"family[{i}] is 0 or lies in the span of the updates before it: leave it out"
                )
            rows.append([x / length for x in row])
        return cls([torch.stack(columns) for columns in zip(*rows)])

    @property
    def size(self) -> int:
        """m."""
        return len(self.basis[0])

    @property
    def numel(self) -> int:
        """d, the number of trainable numbers."""
        return sum(q[0].numel() for q in self.basis)


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b))
