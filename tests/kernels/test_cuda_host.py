"""The CUDA kernels' own source, compiled by g++ with fibers for threads, against the reference.

Shows without a GPU that which lane handles which element, shuffles, edges and tables are right.
What the hardware adds (its roundings, its memory) is test_cuda.py's.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from kernels.bits import assert_same_bits
from kernels.cases import (
    DTYPES,
    TARGETS,
    Dots,
    Pass,
    make_dots,
    make_pass,
    make_sequence,
    misaligned,
    options_of,
    weights,
)

from zopro_kernels import cpu, reference
from zopro_kernels.cuda import CHUNK_TILES
from zopro_kernels.passes import PassSequence
from zopro_kernels.reference_law import DOT_NN_SCALE
from zopro_kernels.table import describe, scalars

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent / "cuda_host"
FORMS = (*DTYPES, torch.int8)  # as csrc/cuda/kernels.h numbers them
SOME = (3, 1023, 4096, 9003)  # of sequences
LARGE = 2**24 + 37  # elements: warps walk over a thousand tiles each, the last one is cut
# Held to the reference's bits by test_cpu.py, and a hundred times quicker.
QUICK = cpu if cpu.status() == "available" else reference


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if (compiler := shutil.which("g++")) is None:
        pytest.skip("no g++ to compile the CUDA source with")
    out = tmp_path_factory.mktemp("cuda_host") / "host.so"
    sources = [HERE / "host.cpp", *(ROOT / "csrc/cuda").glob("*.cu")]
    includes = [HERE, ROOT / "csrc/include", ROOT / "csrc/cuda"]
    subprocess.run(
        [
            compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC",
            "-U_FORTIFY_SOURCE",  # its longjmp takes a jump to another fiber's stack for an error
            *(f"-I{path}" for path in includes), "-x", "c++", *map(str, sources), "-o", str(out),
        ],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(out))


def address(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def run(library, p: Pass) -> None:
    table = describe(p, CHUNK_TILES)
    integers, floats = scalars(p)
    library.host_add_noise(
        address(table.rows), ctypes.c_void_p(table.scales_address), address(integers),
        address(floats), ctypes.c_int64(table.chunks), len(p.tensors), len(p.seeds),
        DTYPES.index(p.tensors[0].dtype), ctypes.c_bool(p.distribution == "gaussian"),
        ctypes.c_bool(p.stochastic), ctypes.c_bool(p.prev is not None),
        ctypes.c_bool(p.v is not None), FORMS.index(p.form),
    )  # fmt: skip


def run_sequence(library, s: PassSequence) -> None:
    table = describe(s, CHUNK_TILES)
    records, integers, floats = s.packed()
    library.host_add_noise_sequence(
        address(table.rows), ctypes.c_void_p(table.scales_address), address(records),
        address(integers), address(floats), ctypes.c_int64(table.chunks), len(s.tensors),
        len(records), DTYPES.index(s.tensors[0].dtype), ctypes.c_bool(s.distribution == "gaussian"),
        ctypes.c_bool(s.stochastic), ctypes.c_bool(s.prev is not None),
        ctypes.c_bool(s.v is not None), FORMS.index(s.form),
    )  # fmt: skip


def dots(library, d: Dots) -> torch.Tensor:
    table, (integers, _) = describe(d, CHUNK_TILES), scalars(d)
    sums = torch.zeros(len(d.vectors), 2, dtype=torch.int64)
    library.host_noise_dots(
        address(table.rows), ctypes.c_void_p(table.scales_address), address(integers),
        address(sums), ctypes.c_int64(table.chunks), len(d.vectors),
        ctypes.c_bool(d.distribution == "gaussian"), FORMS.index(d.form),
    )  # fmt: skip
    if d.distribution == "rademacher":  # n.n of signs counts the elements
        sums[:, 1] = torch.tensor([v.numel() for v in d.vectors]) * int(DOT_NN_SCALE)
    return sums


def compare(library, make) -> None:
    ours, oracle = make(), make()
    run(library, ours)
    reference.add_noise_(oracle)
    for t, (a, b) in enumerate(zip(ours.tensors, oracle.tensors)):
        assert_same_bits(a, b, f"tensor {t}")


@pytest.mark.parametrize("targets", ("", "prev", "v", "prev and v"))
@pytest.mark.parametrize("seeds", (0, 1, 3))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_pass(library, distribution, dtype, seeds, targets):
    def make():
        return make_pass(
            dtype, "cpu", distribution, seeds, prev="prev" in targets, v="v" in targets.split()
        )

    compare(library, make)


@pytest.mark.parametrize("form", ("bf16", "int8"))
@pytest.mark.parametrize("targets", ("prev", "v", "prev and v"))
@pytest.mark.parametrize("seeds", (0, 1, 3))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_kept_smaller(library, distribution, dtype, seeds, targets, form):
    def make():
        return make_pass(
            dtype, "cpu", distribution, seeds, stochastic=True, prev="prev" in targets,
            v="v" in targets.split(), form=form,
        )  # fmt: skip

    compare(library, make)


@pytest.mark.parametrize("seeds", (0, 1, 3))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_stochastic(library, distribution, dtype, seeds):
    compare(library, lambda: make_pass(dtype, "cpu", distribution, seeds, stochastic=True))


@pytest.mark.parametrize("stochastic", (False, True), ids=("nearest", "stochastic"))
@pytest.mark.parametrize("targets,form", TARGETS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_sequence(library, distribution, dtype, targets, form, stochastic):
    options = options_of(targets, form, stochastic)
    ours, oracle = (make_sequence(dtype, "cpu", distribution, sizes=SOME, **options)
                    for _ in range(2))  # fmt: skip
    run_sequence(library, ours)
    reference.add_noise_sequence_(oracle)
    for t, (a, b) in enumerate(zip(ours.tensors, oracle.tensors)):
        assert_same_bits(a, b, f"tensor {t}")


@pytest.fixture(scope="module")
def large():
    """16 million weights of each dtype, and two companions; nobody writes them."""
    generator = torch.Generator().manual_seed(3)
    companions = torch.randn(2, LARGE, generator=generator)
    return {dtype: weights(dtype, "cpu", (LARGE,))[0] for dtype in DTYPES}, companions


@pytest.mark.parametrize("stochastic", (False, True), ids=("nearest", "stochastic"))
@pytest.mark.parametrize("targeted", (False, True), ids=("plain", "targeted"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_sixteen_million_elements(library, large, distribution, dtype, targeted, stochastic):
    theta, (prev, v) = large[0][dtype], large[1]

    def make():
        return Pass(
            [theta.clone()], [3], [2**33 + 16], distribution, [2**64 - 5], [2],
            torch.tensor([[1e-2]]), torch.tensor([0.99]), [prev] if targeted else None,
            torch.tensor([0.5 * targeted]), [v] if targeted else None,
            torch.tensor([-0.25 * targeted]), stochastic, 2**63 + 11,
        )  # fmt: skip

    ours, quick = make(), make()
    run(library, ours)
    QUICK.add_noise_(quick)
    assert_same_bits(ours.tensors[0], quick.tensors[0], "theta")
    assert not torch.equal(ours.tensors[0], theta)


@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_noise_dots_of_sixteen_million_elements(library, large, distribution):
    d = Dots([large[1][0] / LARGE**0.5], [3], [2**33 + 16], distribution, 2**64 - 5, 2)
    sums = dots(library, d)
    assert_same_bits(sums, QUICK.noise_dots(d), "v.n and n.n")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_misaligned_views(library, distribution, dtype):
    def make():
        one = torch.ones(3)
        return Pass(
            misaligned(dtype, "cpu"), [0, 1, 2], [0, 8, 16], distribution, [3], [0],
            one.view(3, 1), one,
        )  # fmt: skip

    compare(library, make)


@pytest.mark.parametrize("form", ("fp32", "bf16", "int8"))
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_noise_dots(library, distribution, form):
    d = make_dots("cpu", distribution, form)
    assert_same_bits(dots(library, d), reference.noise_dots(d), "v.n and n.n")


@pytest.mark.parametrize("stochastic", (False, True), ids=("nearest", "stochastic"))
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_nan_is_stored_alike(library, dtype, stochastic):
    """prev carries NaNs, infinities and the largest number into whole tiles and edges."""
    patterns = (
        0x7FC00000,
        -0x3FFFFF,
        0x7F800001,
        -0x7FFFFF,
        0x7F800000,
        -0x800000,
        0x7F7FFFFF,
        0,
        0,
    )
    prev = torch.tensor(patterns, dtype=torch.int32).repeat(2200).view(torch.float32)

    def make():
        one, theta = torch.ones(1), torch.ones(prev.numel(), dtype=dtype)
        return Pass(
            [theta], [0], [8], "rademacher", [3], [0], one.view(1, 1), one, [prev], one, None, None,
            stochastic, 5,
        )  # fmt: skip

    compare(library, make)
