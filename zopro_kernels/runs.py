"""Splits a pass over any tensors into passes over flat, contiguous runs of one dtype and device.

A contiguous tensor is one run, and all of them of a dtype and device go in one launch. Others are
copied piece by piece through a small buffer, so a pass never needs more than SCRATCH elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from .passes import Pass

SCRATCH = 1 << 16  # elements: 256 KiB of fp32


def contiguous_runs(p: Pass) -> Iterator[Pass]:
    """The passes that together perform `p`; scattered pieces are written back between them."""
    if _is_one_run(p.tensors):  # the usual case: hundreds of adapters, none to be cut
        yield replace(p, tensors=_flat(p.tensors), prev=_flat(p.prev), v=_flat(p.v))
        return
    groups: dict[tuple, list[tuple[int, int, Tensor]]] = {}
    scattered: list[tuple[int, int, Tensor]] = []
    for t, tensor in enumerate(p.tensors):
        for start, piece in _pieces(tensor.detach()):
            if piece.is_contiguous():
                key = (piece.dtype, piece.device)
                groups.setdefault(key, []).append((t, start, piece.view(-1)))
            else:
                scattered.append((t, start, piece))
    for group in groups.values():
        yield _part(p, group)
    for t, start, piece in scattered:
        buffer = piece.contiguous()
        yield _part(p, [(t, start, buffer.view(-1))])
        piece.copy_(buffer)


def _is_one_run(tensors: list[Tensor]) -> bool:
    kinds = {(t.dtype, t.device) for t in tensors}
    return len(kinds) == 1 and all(t.is_contiguous() and t.numel() for t in tensors)


def _flat(tensors: list[Tensor] | None) -> list[Tensor] | None:
    return None if tensors is None else [t.detach().reshape(-1) for t in tensors]


def _pieces(tensor: Tensor, start: int = 0) -> Iterator[tuple[int, Tensor]]:
    """(index of the first element, sub-tensor), in row-major order; empty tensors give none."""
    if tensor.numel() == 0:
        return
    if tensor.is_contiguous() or (tensor.numel() <= SCRATCH):
        yield start, tensor
        return
    inner = tensor.numel() // tensor.shape[0]
    rows = 1 if tensor[0].is_contiguous() else max(1, SCRATCH // inner)
    for row in range(0, tensor.shape[0], rows):
        piece = tensor[row : row + rows]
        if rows == 1:
            yield from _pieces(piece[0], start + row * inner)
        else:
            yield start + row * inner, piece


def _part(p: Pass, group: list[tuple[int, int, Tensor]]) -> Pass:
    chosen = [t for t, _, _ in group]

    def along(tensors: list[Tensor] | None) -> list[Tensor] | None:
        if tensors is None:
            return None
        return [
            tensors[t].detach().reshape(-1)[start : start + flat.numel()]
            for t, start, flat in group
        ]

    return replace(
        p,
        tensors=[flat for _, _, flat in group],
        params=[p.params[t] for t in chosen],
        offsets=[p.offsets[t] + start for t, start, _ in group],
        coeffs=p.coeffs[chosen].contiguous(),
        decay=p.decay[chosen],
        prev=along(p.prev),
        prev_coeffs=p.prev_coeffs[chosen],
        v=along(p.v),
        v_coeffs=p.v_coeffs[chosen],
    )
