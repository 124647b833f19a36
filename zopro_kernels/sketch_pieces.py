"""Any tensor as contiguous pieces that end at given multiples of its elements' global indices."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def contiguous_pieces(x: Tensor, offset: int, chunk: int) -> Iterator[tuple[int, Tensor]]:
    """(first element, flat contiguous tensor) in row-major order of `x`, which is not empty.

    A contiguous tensor is one piece, its own memory. Others are copied into one buffer of `chunk`
    elements, each piece valid until the next is asked for; pieces end where (offset + element) is
    a multiple of `chunk`, so that who adds up chunk by chunk adds in the same order.
    """
    if x.is_contiguous():
        yield 0, x.view(-1)
        return
    buffer = torch.empty(chunk, dtype=x.dtype, device=x.device)
    start = held = 0
    for block in _blocks(x, chunk):
        flat, at = block.reshape(-1), 0
        while at < len(flat):
            count = min(chunk - (offset + start + held) % chunk, len(flat) - at)
            buffer[held : held + count] = flat[at : at + count]
            held, at = held + count, at + count
            if (offset + start + held) % chunk == 0:
                yield start, buffer[:held]
                start, held = start + held, 0
    if held:
        yield start, buffer[:held]


def _blocks(x: Tensor, most: int) -> Iterator[Tensor]:
    """Parts of `x` of at most `most` elements, in row-major order."""
    if x.numel() <= most:
        yield x
        return
    rows = most * len(x) // x.numel()
    if rows == 0:
        for row in x:
            yield from _blocks(row, most)
        return
    for row in range(0, len(x), rows):
        yield x[row : row + rows]
