"""The CUDA kernels of the sketch, compiled by g++ with fibers for threads: the reference's bits."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from kernels.bits import assert_same_bits
from kernels.cases import DTYPES

from zopro_kernels import sketch_reference
from zopro_kernels.sketch_law import CHUNK
from zopro_kernels.sketch_pass import Sketch, chunks_of, describe

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent / "cuda_host"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if (compiler := shutil.which("g++")) is None:
        pytest.skip("no g++ to compile the CUDA source with")
    out = tmp_path_factory.mktemp("cuda_host") / "sketch.so"
    includes = [HERE, ROOT / "csrc/include", ROOT / "csrc/cuda"]
    subprocess.run(
        [
            compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC",
            "-U_FORTIFY_SOURCE", "-DZOPRO_SKETCH_ALONE", *(f"-I{path}" for path in includes),
            "-x", "c++", str(HERE / "host.cpp"), str(ROOT / "csrc/cuda/sketch.cu"), "-o", str(out),
        ],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(out))


def add(library, s: Sketch, wave: int) -> None:
    table = describe(s)
    chunks = chunks_of(table)
    sums = torch.full((wave, s.dim), float("nan"))
    for first in range(0, chunks, wave):
        library.host_sketch(
            *(ctypes.c_void_p(t.data_ptr()) for t in (table, sums, s.out)), ctypes.c_uint64(s.seed),
            ctypes.c_uint32(s.stream), ctypes.c_int64(first), min(wave, chunks - first),
            len(s.tensors), s.dim, DTYPES.index(s.tensors[0].dtype),
        )  # fmt: skip


@pytest.mark.parametrize("dim", (128, 8192, 16384))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits(library, dtype, dim):
    """Edges of blocks, strips and chunks; indices past 2^32; two waves of chunks."""
    numels, offsets = (1, 127, 20_011, CHUNK + 5000), (3, 2**33 + 500, 2**40 + 77, CHUNK - 700)
    tensors = [torch.randn(n).to(dtype) for n in numels]
    made = [
        Sketch(tensors, [4, 0, 2**32 - 1, 7], list(offsets), [1, 0, 0, 1], 2**64 - 3, 9,
               torch.zeros(2, dim, dtype=torch.float64))
        for _ in range(2)
    ]  # fmt: skip
    add(library, made[0], wave=4)
    sketch_reference.sketch(made[1])
    assert_same_bits(made[0].out, made[1].out)
