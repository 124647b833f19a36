"""What the Triton and CUDA kernels read from memory: one descriptor a tensor, and the scalars.

Descriptors are int64 [T, 8]:
    0 address of theta (or of the vector of a reduction)     4 offset: global index of element 0
    1 address of prev, or 0                                  5 parameter index
    2 address of v, or 0                                     6 chunks of the tensors before it
    3 number of elements                                     7 1 if 16-byte accesses fit
A chunk is a run of whole tiles of 4,096 in the global index space; an unaligned tensor's first and
last chunk stick out of it.

Scalars change with every pass and travel as one buffer: int64 [1 + 2 K] (rounding seed, seeds,
streams; the bits of a uint64 as int64), then fp32 [T, 3 + K] (decay, prev_coeff, v_coeff, coeffs).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from .passes import Dots, Pass

TILE = 4096
COLUMNS = 8
_REMEMBERED = 64  # tables of parameter sets kept on their devices


@dataclass
class Table:
    """Descriptors on the device (int64 [T, 8], read only) and the number of chunks in all."""

    rows: Tensor
    chunks: int


_tables: OrderedDict[tuple, Table] = OrderedDict()


def describe(p: Pass | Dots, chunk_tiles: int) -> Table:
    """The table of the pass's (or reduction's) tensors, remembered by their addresses."""
    tensors = p.tensors if isinstance(p, Pass) else p.vectors
    others = (p.prev, p.v) if isinstance(p, Pass) else (None, None)
    device = tensors[0].device
    addresses = [tuple(t.data_ptr() for t in part) for part in (tensors, *others) if part]
    # A table is used on the stream that filled it, so nothing has to wait for it.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    key = (
        device, stream, tensors[0].dtype, chunk_tiles, others[0] is None, others[1] is None,
        tuple(t.numel() for t in tensors), tuple(p.offsets), tuple(p.params), *addresses,
    )  # fmt: skip
    if (table := _tables.get(key)) is not None:
        _tables.move_to_end(key)
        return table
    rows, chunks = [], 0
    for t, tensor in enumerate(tensors):
        prev, v = (0 if part is None else part[t].data_ptr() for part in others)
        offset, numel = p.offsets[t], tensor.numel()
        aligned = (tensor.data_ptr() | prev | v | 2 * offset) % 16 == 0
        rows.append([tensor.data_ptr(), prev, v, numel, offset, p.params[t], chunks, int(aligned)])
        if numel:
            tiles = (offset + numel - 1) // TILE - offset // TILE + 1
            chunks += -(-tiles // chunk_tiles)
    table = Table(torch.tensor(rows, dtype=torch.int64).to(device), chunks)
    _tables[key] = table
    if len(_tables) > _REMEMBERED:
        _tables.popitem(last=False)
    return table


def _as_int64(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def scalars(p: Pass | Dots) -> tuple[Tensor, Tensor]:
    """(int64 [1 + 2 K], fp32 [T, 3 + K]) on the device, from one copy; Dots have no floats."""
    if isinstance(p, Dots):
        tensors, seeds, streams, rounding_seed = p.vectors, [p.seed], [p.stream], 0
    else:
        tensors, seeds, streams, rounding_seed = p.tensors, p.seeds, p.streams, p.rounding_seed
    device, integers = tensors[0].device, [rounding_seed, *seeds, *streams]
    width = 3 + len(seeds)
    floats = 0 if isinstance(p, Dots) else len(tensors) * width
    # Pinned, so that the copy waits for nothing; the allocator keeps it until the copy is done.
    host = torch.empty(
        len(integers) + (floats + 1) // 2, dtype=torch.int64, pin_memory=device.type == "cuda"
    )
    host[: len(integers)] = torch.tensor([_as_int64(i) for i in integers], dtype=torch.int64)
    if floats:
        table = host[len(integers) :].view(torch.float32)[:floats].view(len(tensors), width)
        table[:, 0] = p.decay
        table[:, 1] = p.prev_coeffs if p.prev is not None else 0.0
        table[:, 2] = p.v_coeffs if p.v is not None else 0.0
        table[:, 3:] = p.coeffs
    there = host.to(device, non_blocking=True)
    return (
        there[: len(integers)],
        there[len(integers) :].view(torch.float32)[:floats].view(-1, width),
    )
