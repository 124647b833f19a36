"""Backend "cpu" of the sketch: the C++ kernel of csrc/cpu/sketch.cpp."""

from __future__ import annotations

import torch

from .cpu import _DTYPES, _native
from .sketch_pass import Sketch, describe


def sketch(s: Sketch) -> None:
    """Adds to s.out, chunk by chunk."""
    table = describe(s)
    _native.sketch(
        table.data_ptr(), len(table), _DTYPES[s.tensors[0].dtype], s.seed, s.stream, s.dim,
        s.out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
