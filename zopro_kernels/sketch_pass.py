"""A sketch as backends receive it: validated, flat, one dtype and device."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Sketch:
    """What a backend adds to `out`: sketches of `tensors`, flat, contiguous, one dtype and device.

    params, offsets, rows: one int a tensor; rows[t] is the row of `out` it belongs to. out: fp64
    [G, dim] beside the tensors, added to in place, chunk by chunk in order.
    """

    tensors: list[Tensor]
    params: list[int]
    offsets: list[int]
    rows: list[int]
    seed: int
    stream: int
    out: Tensor

    @property
    def dim(self) -> int:
        """Numbers of a sketch."""
        return self.out.shape[1]
