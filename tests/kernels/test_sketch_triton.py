"""The sketch in Triton against the reference: compiled where there is a GPU, else interpreted."""

from __future__ import annotations

import pytest
import torch
from kernels.bits import assert_same_bits
from kernels.cases import DTYPES

pytest.importorskip("triton", reason="triton is not installed")
import zopro_kernels as zk
from zopro_kernels import sketch_triton
from zopro_kernels.sketch_law import CHUNK

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits(dtype, monkeypatch):
    """Edges of blocks, of four blocks and of chunks; few chunks a wave, so that there are two."""
    monkeypatch.setattr(sketch_triton, "MOST", 3 * 256)
    tensors = [torch.randn(n).to(dtype) for n in (700, 1, 300, 600)]
    options = dict(params=[0, 7, 2**32 - 1, 3], offsets=[5, 2**40 + 511, CHUNK - 200, 0],
                   groups=[1, 0, 1, 2], stream=3)  # fmt: skip
    there = [t.to(DEVICE) for t in tensors]
    found = zk.sketch(there, 2**64 - 3, 256, backend="triton", **options)
    assert_same_bits(
        found.cpu(), zk.sketch(tensors, 2**64 - 3, 256, backend="reference", **options)
    )
