"""What the kernels read from memory beside the weights: one descriptor a tensor.

Descriptors are int64 [T, 8]:
    0 address of theta (or of the vector of a reduction)     4 offset: global index of element 0
    1 address of prev, or 0                                  5 parameter index
    2 address of v, or 0                                     6 chunks of the tensors before it
    3 number of elements                                     7 1 if 16-byte accesses fit
Of Int8Blocks a second table, int64 [T, 2], has the addresses of the scales of prev (or of the
vector) and of v; the descriptor of a tensor stays one line of a cache. A chunk is a run of whole
tiles of 4,096 in the global index space; an unaligned tensor's first and last chunk stick out of
it. The scalars, which change with every pass, are `Pass.integers` and `Pass.floats`: what is on the
device already is used from there, the host never reads it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from .passes import Dots, Pass, PassSequence
from .stored import Int8Blocks, Stored
from .transfer import moved

TILE = 4096
COLUMNS, NUMEL = 8, 3
_REMEMBERED = 64  # tables of parameter sets kept on their devices


@dataclass
class Table:
    """What a device reads: descriptors (int64 [T, 8]), the number of chunks in all, and of
    Int8Blocks the addresses of their scales (int64 [T, 2], else none)."""

    rows: Tensor
    chunks: int
    scales: Tensor | None = None

    @property
    def scales_address(self) -> int:
        """Of `scales`; 0 where there are none."""
        return 0 if self.scales is None else self.scales.data_ptr()


_tables: OrderedDict[tuple, Table] = OrderedDict()


def describe(p: Pass | PassSequence | Dots, chunk_tiles: int) -> Table:
    """The table of the pass's (or reduction's) tensors, remembered with them or by addresses."""
    device = (p.vectors if isinstance(p, Dots) else p.tensors)[0].device
    # A table is used on the stream that filled it, so nothing has to wait for it.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        # Filled before the capture began, and nothing of that time still runs.
        for (_, tiles), table in p.tables.items():
            if tiles == chunk_tiles:
                return table
    if (table := p.tables.get((stream, chunk_tiles))) is None:
        table = p.tables[stream, chunk_tiles] = _by_addresses(p, device, stream, chunk_tiles)
    return table


def _by_addresses(
    p: Pass | PassSequence | Dots, device: torch.device, stream: int, chunk_tiles: int
) -> Table:
    tensors = p.vectors if isinstance(p, Dots) else p.tensors
    others = (None, None) if isinstance(p, Dots) else (p.prev, p.v)
    blocks = (tensors, None) if isinstance(p, Dots) else others
    scales = [[_scales(part, t) for part in blocks] for t in range(len(tensors))]
    addresses = [tuple(t.data_ptr() for t in part) for part in (tensors, *others) if part]
    key = (
        device, stream, tensors[0].dtype, chunk_tiles, others[0] is None, others[1] is None,
        tuple(t.numel() for t in tensors), tuple(p.offsets), tuple(p.params), *addresses,
        *map(tuple, scales), p.form,
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
    table = Table(moved(torch.tensor(rows, dtype=torch.int64), device), chunks)
    if any(map(any, scales)):
        table.scales = moved(torch.tensor(scales, dtype=torch.int64), device)
    _tables[key] = table
    if len(_tables) > _REMEMBERED:
        _tables.popitem(last=False)
    return table


def _scales(part: list[Stored] | None, t: int) -> int:
    """Address of the scales of tensor t; 0 where there are none."""
    given = None if part is None else part[t]
    return given.scales.data_ptr() if isinstance(given, Int8Blocks) else 0


def scalars(p: Pass | Dots) -> tuple[Tensor, Tensor]:
    """(int64 [1 + 2 K], fp32 [T, 4 + K]), contiguous, on the device; Dots have no floats."""
    if isinstance(p, Dots):
        return p.integers, torch.empty(0, device=p.integers.device)
    return p.integers, p.floats.contiguous()
