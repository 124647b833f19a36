"""A linear layer by sequence multiplies with the copies that zk.perturbed makes, to the bit."""

from functools import partial

import pytest
import torch
from kernels.bits import assert_same_bits
from kernels.cases import DTYPES
from torch import Tensor

import zopro_kernels as zk

BACKENDS = [name for name in ("reference", "cpu", "triton") if zk.backends()[name] == "available"]
SEEDS, STREAMS, COEFFS = [2**64 - 1, 5, 5], [0, 2**32 - 1, 7], [1e-2, -2e-2, 0.7]
KEPT = {"fp32": Tensor.float, "bf16": Tensor.bfloat16, "int8": zk.quantise}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def effective(weight, dtype, **options):
    """What each of three blocks of tokens multiplies with: its answers to unit vectors."""
    ins = weight.shape[1]
    eye = torch.eye(ins, dtype=dtype).expand(3, ins, ins)
    y = zk.perturbed_linear(eye, weight, SEEDS, COEFFS, streams=STREAMS, **options)
    return y.transpose(1, 2).contiguous()


def check(backend, weight, dtype=None, **options):
    dtype = weight.dtype if dtype is None else dtype
    want = zk.perturbed(
        weight, SEEDS, COEFFS, streams=STREAMS, backend="reference", **options
    ).to(dtype)  # fmt: skip
    assert_same_bits(effective(weight, dtype, backend=backend, **options), want, f"{options}")


# [out, in]: as LoRA's factors are (all columns in one tile, or many), of whole groups of eight and
# of others, with tails in each direction, over several of the law's tiles of signs.
SHAPES = ((70, 8), (21, 4), (33, 128), (3, 77))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_copies_have_the_bits_of_perturbed(backend, distribution):
    for outs, ins in SHAPES:
        check(
            backend, random(outs, ins), distribution=distribution, param=7, offset=2**33 + ins % 8
        )
    check(backend, random(40, 8), distribution=distribution, offset=2**40 + 16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_roundings_of_the_weight_and_to_the_input(backend, dtype):
    weight = random(20, 24).to(dtype)
    for x in {torch.float32, torch.bfloat16, dtype}:
        check(backend, weight, x, distribution="gaussian")
    for shape in ((24, 8), (5, 72), (9, 4)):
        check(backend, random(*shape).to(dtype), rounding="stochastic", rounding_seed=3, param=1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", KEPT)
@pytest.mark.parametrize("outs, ins, offset", [(35, 16, 264), (6, 72, 0), (5, 12, 3)])
def test_targets_take_part(backend, form, outs, ins, offset):
    keep = partial(zk.quantise, offset=offset) if form == "int8" else KEPT[form]
    weight, prev, v = random(3, outs, ins)
    check(backend, weight, offset=offset, prev=keep(prev), prev_coeffs=[0.5, -1.0, 2.0],
          v=keep(v), v_coeffs=-0.3)  # fmt: skip
    check(backend, weight.bfloat16(), torch.float32, offset=offset, v=keep(v), v_coeffs=0.25,
          distribution="gaussian")  # fmt: skip
    if form != "int8":
        check(backend, weight, prev=keep(random(2, outs, ins, seed=1)), prev_rows=[1, 0, 1],
              prev_coeffs=0.5)  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_products_and_tails_of_tokens(backend, monkeypatch):
    """Any number of tokens, several blocks a program too; with one coefficient that is not finite,
    the weight as it is."""
    monkeypatch.setattr("zopro_kernels.linear_triton.PROGRAMS", 1)
    for dtype in (torch.float32, torch.bfloat16):
        for tokens, outs, ins in ((1, 5, 8), (300, 20, 8), (130, 8, 72)):
            x, weight = random(3, tokens, ins, seed=2).to(dtype), random(outs, ins).to(dtype)
            for coeffs in (COEFFS, torch.tensor([float("nan"), 1.0, 1.0])):
                y = zk.perturbed_linear(x, weight, SEEDS, coeffs, backend=backend)
                copies = zk.perturbed(weight, SEEDS, coeffs, backend="reference")
                want = torch.bmm(x.double(), copies.double().transpose(1, 2))
                # fp32: sums of 72 products; bf16: one rounding of the sum.
                rtol, atol = (1e-5, 1e-4) if dtype == torch.float32 else (2**-8, 1e-3)
                torch.testing.assert_close(y.double(), want, rtol=rtol, atol=atol)


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_padding_and_neighbours_do_not_matter(backend):
    x, weight = random(3, 40, 96), random(8, 96)

    def run(rows, tokens=40):
        seeds, streams = [SEEDS[k] for k in rows], [STREAMS[k] for k in rows]
        return zk.perturbed_linear(
            x[rows, :tokens], weight, seeds, [COEFFS[k] for k in rows], streams=streams,
            backend=backend,
        )  # fmt: skip

    whole = run([0, 1, 2])
    if backend == "triton":  # elsewhere sums are torch's, whose order may depend on the shape
        assert_same_bits(run([2, 0, 1]), whole[[2, 0, 1]], "another order")
        assert_same_bits(run([1]), whole[1:2], "alone")
        assert_same_bits(run([0, 2], 33), whole[[0, 2], :33], "fewer tokens")
    torch.testing.assert_close(run([2, 0], 33), whole[[2, 0], :33], rtol=1e-5, atol=1e-5)


def test_nothing_is_left_to_do():
    weight = torch.ones(4, 8)
    assert zk.perturbed_linear(torch.ones(0, 3, 8), weight, [], []).shape == (0, 3, 4)
    assert zk.perturbed_linear(torch.ones(1, 0, 8), weight, [1], [1.0]).shape == (1, 0, 4)


REFUSED = [
    ({"weight": torch.ones(8)}, "weight is \\(8,\\): give a matrix"),
    ({"weight": torch.ones(4, 8, dtype=torch.int64)}, "weight.*int64"),
    ({"x": torch.ones(2, 8)}, "x is \\(2, 8\\).*give \\[2, T, 8\\]"),
    ({"x": torch.ones(3, 5, 8)}, "a block of tokens for each of seeds"),
    ({"x": torch.ones(2, 5, 8, dtype=torch.int64)}, "x.*int64"),
    ({"coeffs": [1.0]}, "coeffs has 1 entries where 2"),
    ({"out": torch.ones(3)}, "unexpected keyword argument 'out'"),
    ({"backend": "cuda"}, "cuda"),
]


@pytest.mark.parametrize("wrong, said", REFUSED, ids=[said for _, said in REFUSED])
def test_refusals(wrong, said):
    given = {"x": torch.ones(2, 5, 8), "weight": torch.ones(4, 8), "seeds": [1, 2]}
    given |= {"coeffs": [1.0, 1.0], **wrong}
    with pytest.raises((ValueError, TypeError, RuntimeError), match=said):
        zk.perturbed_linear(**given)
