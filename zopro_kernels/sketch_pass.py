"""A sketch as backends receive it: validated, flat, one dtype and device.

Kernels read descriptors, int64 [T, 6]: address, elements, global index of element 0, parameter
index, row of the result, chunks of the tensors before (csrc/include/zopro/sketch.h).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .sketch_law import CHUNK


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


def describe(s: Sketch) -> Tensor:
    """The descriptors, on the CPU."""
    rows, chunks = [], 0
    for tensor, param, offset, row in zip(s.tensors, s.params, s.offsets, s.rows):
        rows.append([tensor.data_ptr(), tensor.numel(), offset, param, row, chunks])
        chunks += (offset + tensor.numel() - 1) // CHUNK - offset // CHUNK + 1
    return torch.tensor(rows, dtype=torch.int64)


def chunks_of(table: Tensor) -> int:
    """How many chunks the descriptors have in all."""
    _, numel, offset, _, _, before = table[-1].tolist()
    return before + (offset + numel - 1) // CHUNK - offset // CHUNK + 1
