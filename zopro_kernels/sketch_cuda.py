"""Backend "cuda" of the sketch: the kernels of csrc/cuda/sketch.cu."""

from __future__ import annotations

import torch

from .cuda import _DTYPES, _native
from .sketch_pass import Sketch, chunks_of, describe
from .transfer import moved

MOST = 1 << 22  # sums of chunks held before all are added: 16 MiB


def sketch(s: Sketch) -> None:
    """Adds to s.out, chunk by chunk; two launches for each 512 chunks (at 8,192 numbers)."""
    device = s.out.device
    with torch.cuda.device(device):
        host = describe(s)
        table, chunks = moved(host, device), chunks_of(host)
        wave = min(chunks, MOST // s.dim)
        sums = torch.empty(wave, s.dim, device=device)
        for first in range(0, chunks, wave):
            _native.sketch(
                device.index, table.data_ptr(), sums.data_ptr(), s.out.data_ptr(), s.seed, s.stream,
                first, min(wave, chunks - first), len(s.tensors), s.dim,
                _DTYPES[s.tensors[0].dtype], torch.cuda.current_stream(device).cuda_stream,
            )  # fmt: skip
