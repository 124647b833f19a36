"""Splits a pass over any tensors into passes over flat, contiguous runs of one dtype and device.

A contiguous tensor is one run, and all of them of a dtype and device go in one launch. Others, and
those whose prev or v is not contiguous, are cut: what is contiguous in all three is used in place,
the rest is copied piece by piece (Int8Blocks never: any part of them is one run). Copies and
descriptors never take more than 1 MiB.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from .passes import AnyPass, part_of
from .stored import Int8Blocks, Stored, flattened

# Elements of a copied piece: 128 KiB of fp32, for each of theta, prev and v, and twice that while
# the next piece is copied.
SCRATCH = 1 << 15
RUN = 1 << 12  # shorter contiguous rows are copied as well: 64 bytes of descriptor cost more
PIECES = 1 << 11  # cut runs in one launch: 128 KiB of descriptors

Piece = tuple[int, int, list[Stored]]  # number of the tensor, first element, [theta, prev, v]


def contiguous_runs(p: AnyPass) -> Iterator[AnyPass]:
    """The passes that together perform `p`; scattered pieces are written back between them."""
    given = [part for part in (p.tensors, p.prev, p.v) if part is not None]
    groups: dict[tuple, list[Piece]] = {}
    for t in range(len(p.tensors)):
        for start, piece in _cut([part[t] for part in given]):
            if not _contiguous(piece):
                yield from _copied(p, (t, start, piece))
                continue
            group = groups.setdefault((piece[0].dtype, piece[0].device), [])
            group.append((t, start, piece))
            if len(group) >= PIECES:
                yield _part(p, group)
                group.clear()
    for group in filter(None, groups.values()):
        yield _part(p, group)


def is_one_run(tensors: list[Stored], *others: list[Stored] | None) -> bool:
    """Whether nothing has to be cut: contiguous all, no one empty, one dtype and device."""
    given = [tensors, *(part for part in others if part is not None)]
    kinds = {(t.dtype, t.device) for t in tensors}
    return len(kinds) == 1 and all(_contiguous(part) and all(map(_numel, part)) for part in given)


def flat(tensors: list[Stored] | None) -> list[Stored] | None:
    """The same memory as vectors, for contiguous tensors."""
    return None if tensors is None else [flattened(t) for t in tensors]


def _numel(x: Stored) -> int:
    return x.numel()


def _contiguous(piece: list[Stored]) -> bool:
    return all(isinstance(x, Int8Blocks) or x.is_contiguous() for x in piece)


def _cut(whole: list[Stored]) -> Iterator[tuple[int, list[Stored]]]:
    """As `_pieces` of the tensors, with the part of each Int8Blocks that belongs to a piece."""
    for start, tensors in _pieces([x.detach() for x in whole if isinstance(x, Tensor)]):
        stop, cut = start + tensors[0].numel(), iter(tensors)
        yield start, [next(cut) if isinstance(x, Tensor) else x.part(start, stop) for x in whole]


def _pieces(whole: list[Tensor], start: int = 0) -> Iterator[tuple[int, list[Tensor]]]:
    """(index of the first element, sub-tensors), in row-major order; empty tensors give none."""
    shape, numel = whole[0].shape, whole[0].numel()
    if numel == 0:
        return
    if all(x.is_contiguous() for x in whole) or numel <= SCRATCH:
        yield start, whole
        return
    inner = numel // shape[0]
    as_they_are = inner >= RUN and all(x[0].is_contiguous() for x in whole)
    rows = 1 if as_they_are else max(1, SCRATCH // inner)
    for row in range(0, shape[0], rows):
        if rows == 1:
            yield from _pieces([x[row] for x in whole], start + row * inner)
        else:
            yield start + row * inner, [x[row : row + rows] for x in whole]


def _copied(p: AnyPass, piece: Piece) -> Iterator[AnyPass]:
    t, start, parts = piece
    buffers = [x if isinstance(x, Int8Blocks) else x.contiguous() for x in parts]
    yield _part(p, [(t, start, buffers)])
    if buffers[0] is not parts[0]:
        parts[0].copy_(buffers[0])


def _part(p: AnyPass, group: list[Piece]) -> AnyPass:
    rows, starts = [t for t, _, _ in group], [start for _, start, _ in group]
    tensors, *companions = (flat(part) for part in zip(*(x for _, _, x in group)))
    names = [name for name in ("prev", "v") if getattr(p, name) is not None]
    return part_of(p, tensors, rows, starts, **dict(zip(names, companions)))
