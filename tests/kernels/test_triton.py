"""Triton against the reference, bit by bit: compiled where there is a GPU, else interpreted."""

import pytest
import torch
from kernels.bits import assert_same_bits
from kernels.cases import (
    DTYPES,
    TARGETS,
    Pass,
    make_dots,
    make_pass,
    make_sequence,
    misaligned,
    options_of,
)

from zopro_kernels import reference

pytest.importorskip("triton", reason="triton is not installed")
from zopro_kernels import triton_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def compare(make) -> None:
    ours, oracle = make(DEVICE), make("cpu")
    triton_backend.add_noise_(ours)
    reference.add_noise_(oracle)
    for t, (a, b) in enumerate(zip(ours.tensors, oracle.tensors)):
        assert_same_bits(a, b, f"tensor {t}")


@pytest.mark.parametrize("stochastic", (False, True))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_one_seed(distribution, dtype, stochastic):
    compare(lambda d: make_pass(dtype, d, distribution, 1, stochastic=stochastic))


@pytest.mark.parametrize("seeds", (0, 3))
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_any_number_of_seeds(distribution, seeds):
    compare(lambda d: make_pass(torch.bfloat16, d, distribution, seeds))


@pytest.mark.parametrize("prev,v", ((True, False), (False, True), (True, True)))
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_targeted(distribution, prev, v):
    compare(lambda d: make_pass(torch.float32, d, distribution, 1, prev=prev, v=v))


@pytest.mark.parametrize("form", ("bf16", "int8"))
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_kept_smaller(distribution, form):
    compare(lambda d: make_pass(torch.bfloat16, d, distribution, 1, prev=True, v=True, form=form))


@pytest.mark.parametrize("seeds", (2,))
def test_everything_at_once(seeds):
    def make(device):
        return make_pass(
            torch.float16, device, "rademacher", seeds, stochastic=True, prev=True, v=True
        )

    compare(make)


@pytest.mark.parametrize("case", range(6))
def test_sequence(case, monkeypatch):
    """Each dtype and distribution; targets and roundings in turn. A tile a program, so that one of
    the tensors has a program that takes 16 bytes at a time, and others under a mask."""
    monkeypatch.setattr(triton_backend, "INTERPRETED_TILES", 1)
    options = options_of(*TARGETS[case % len(TARGETS)], stochastic=case in (1, 2, 4))
    of = ("rademacher", "gaussian")[case // 3]
    ours, oracle = (
        make_sequence(DTYPES[case % 3], device, of, sizes=(4096, 1003), **options)
        for device in (DEVICE, "cpu")
    )
    triton_backend.add_noise_sequence_(ours)
    reference.add_noise_sequence_(oracle)
    for t, (a, b) in enumerate(zip(ours.tensors, oracle.tensors)):
        assert_same_bits(a, b, f"tensor {t}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_misaligned_views(dtype):
    def make(device):
        views = misaligned(dtype, device)
        one = torch.ones(3)
        return Pass(
            views, [0, 1, 2], [0, 8, 16], "gaussian", [3], [0], one.view(3, 1), one,
            None, None, None, None,
        )  # fmt: skip

    compare(make)


@pytest.mark.parametrize("form", ("fp32", "bf16", "int8"))
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_noise_dots(distribution, form):
    ours = triton_backend.noise_dots(make_dots(DEVICE, distribution, form))
    oracle = reference.noise_dots(make_dots("cpu", distribution, form))
    assert_same_bits(ours, oracle, "v.n and n.n")


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("stochastic", (False, True))
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_nan_is_stored_alike(dtype, stochastic):
    """prev carries fp32 NaNs and infinities into tensors of 16 bits."""
    patterns = (0x7FC00000, -0x3FFFFF, 0x7F800001, -0x7FFFFF, 0x7F800000, -0x800000, 0x7F7FFFFF)

    def make(device):
        one = torch.ones(1)
        prev = torch.tensor(patterns, dtype=torch.int32).repeat(700).view(torch.float32).to(device)
        return Pass(
            [torch.ones(4900, dtype=dtype, device=device)], [0], [8], "rademacher", [3], [0],
            one.view(1, 1), one, [prev], one, None, None, stochastic, 5,
        )  # fmt: skip

    compare(make)


@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_four_million_elements(distribution):
    size = 4_200_000

    def make(device):
        zero = torch.zeros(size, device=device)
        one = torch.ones(1)
        return Pass([zero], [5], [2**32 - 1000], distribution, [77], [1], one.view(1, 1), one)

    compare(make)
