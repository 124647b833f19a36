"""Backend "reference" of the sketch: plain PyTorch, the sums on the host, first element to last."""

from __future__ import annotations

from .sketch_law import CHUNK, add_chunk
from .sketch_pass import Sketch


def sketch(s: Sketch) -> None:
    """Adds to s.out, chunk by chunk."""
    for tensor, param, offset, row in zip(s.tensors, s.params, s.offsets, s.rows):
        at = 0
        while at < len(tensor):
            stop = min(len(tensor), at + CHUNK - (offset + at) % CHUNK)
            add_chunk(s.out[row], tensor[at:stop], offset + at, s.seed, param, s.stream)
            at = stop
