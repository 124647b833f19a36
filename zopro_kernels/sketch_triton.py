"""Backend "triton" of the sketch: its host side."""

from __future__ import annotations

import torch

from .passes import integers
from .sketch_law import BLOCK
from .sketch_pass import Sketch, chunks_of, describe
from .transfer import moved
from .triton_backend import _on, _triton_type

MOST = 1 << 22  # sums of chunks held before all are added: 16 MiB


def sketch(s: Sketch) -> None:
    """Adds to s.out, chunk by chunk; two launches for each 512 chunks (at 8,192 numbers)."""
    from . import triton_sketch

    device, count = s.out.device, len(s.tensors)
    with _on(device):
        host = describe(s)
        table = moved(host, device)
        scalars = integers([s.seed, s.stream], device)
        chunks = chunks_of(host)
        wave = min(chunks, MOST // s.dim)
        sums = torch.empty(wave, s.dim, device=device)
        for first in range(0, chunks, wave):
            here = min(wave, chunks - first)
            sums.zero_()
            triton_sketch.sketch_chunks[(here,)](
                table, scalars, sums, count, first, s.dim // BLOCK,
                DTYPE=_triton_type(s.tensors[0].dtype), num_warps=1, enable_fp_fusion=False,
            )  # fmt: skip
            triton_sketch.add_sketches[(s.dim // BLOCK,)](
                table, sums, s.out, count, first, here, s.dim, num_warps=1
            )
