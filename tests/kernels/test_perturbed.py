"""Perturbed copies of one tensor have the bits that the pass leaves in a copy."""

from functools import partial

import pytest
import torch
from kernels.bits import assert_same_bits
from kernels.cases import DTYPES, weights
from torch import Tensor

import zopro_kernels as zk

BACKENDS = [name for name in ("reference", "cpu", "triton") if zk.backends()[name] == "available"]
SEEDS, STREAMS = [2**64 - 1, 5, 5], [0, 2**32 - 1, 7]
COEFFS = [1e-3, -2e-3, 0.7]


def passes(tensor, k, **options):
    """What the pass, on the reference, leaves in a copy."""
    copy = tensor.clone().contiguous()
    beside = {name: [options[name]] for name in ("prev", "v") if options.get(name) is not None}
    numbers = {name: options[name][k] for name in ("prev_coeffs", "v_coeffs") if name in options}
    zk.add_noise_(
        [copy], [SEEDS[k]], [COEFFS[k]], streams=[STREAMS[k]], params=[options.get("param", 0)],
        offsets=[options.get("offset", 0)], distribution=options["distribution"],
        rounding=options.get("rounding", "nearest"), rounding_seed=options.get("rounding_seed"),
        backend="reference", **beside, **numbers,
    )  # fmt: skip
    return copy


def check(backend, tensor, **options):
    many = options.pop("many", None)
    given = {**options, "prev": many[0], "prev_rows": many[1]} if many else options
    out = zk.perturbed(tensor, SEEDS, COEFFS, streams=STREAMS, backend=backend, **given)
    assert out.shape == (3, *tensor.shape)
    for k in range(3):
        one = {**options, "prev": many[0][many[1][k]]} if many else options
        assert_same_bits(out[k], passes(tensor, k, **one), f"{backend}, copy {k}, {options}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copies_have_the_bits_of_the_pass(backend, distribution, dtype):
    sizes = ((1, 5), (1023, 2**33 + 1), (9000, 0), (8192, 2**40 + 16))
    if backend == "triton":  # interpreted: seconds a case
        sizes = ((1023, 2**33 + 1), (4200, 0)) if dtype == torch.float32 else ((600, 2**33 + 1),)
    for size, offset in sizes:
        (tensor,) = weights(dtype, "cpu", (size,))
        options = {"distribution": distribution, "param": 7, "offset": offset}
        if dtype == torch.float32 or backend != "triton":
            check(backend, tensor, **options)
        if dtype != torch.float32:
            check(backend, tensor, **options, rounding="stochastic", rounding_seed=3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
def test_targets_take_part(backend, form):
    generator = torch.Generator().manual_seed(0)
    for size, offset in ((1000, 3), (4096, 0)) if backend != "triton" else ((1000, 3),):
        tensor, prev, v = torch.randn(3, size, generator=generator)
        keep = {"fp32": Tensor.float, "bf16": Tensor.bfloat16,
                "int8": partial(zk.quantise, offset=offset)}[form]  # fmt: skip
        for distribution in ("rademacher", "gaussian") if backend != "triton" else ("gaussian",):
            check(backend, tensor.bfloat16(), distribution=distribution, offset=offset, param=1,
                  prev=keep(prev), prev_coeffs=[0.5, -1.0, 2.0], v=keep(v),
                  v_coeffs=[1.0, 0.0, -0.3])  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_prev_for_each_copy(backend):
    generator = torch.Generator().manual_seed(0)
    for shape in ((5, 7), (64, 64)) if backend != "triton" else ((5, 7),):
        tensor, family = torch.randn(shape, generator=generator), torch.randn(2, *shape)
        for dtype in (torch.float32, torch.bfloat16):
            check(backend, tensor, distribution="gaussian", prev_coeffs=[0.5, -1.0, 2.0],
                  many=(family.to(dtype), [1, 0, 1]))  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_zeros_and_nothing(backend):
    tensor = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).t()
    check(backend, tensor, distribution="gaussian")
    minus = torch.full((10,), -0.0)
    out = zk.perturbed(minus, [1, 2], torch.tensor([0.0, float("nan")]), backend=backend)
    assert_same_bits(out, minus.expand(2, 10), "copies that nothing moves")
    assert zk.perturbed(torch.ones(3), [], [], backend=backend).shape == (0, 3)
    assert zk.perturbed(torch.ones(0), [1], [1.0], backend=backend).shape == (1, 0)


def test_one_call_writes_into_what_is_given_and_reads_only():
    tensor = torch.randn(33)
    kept, out = tensor.clone(), torch.empty(2, 33)
    got = zk.perturbed(tensor, [1, 1], [1.0, -1.0], out=out)
    assert got is out
    assert_same_bits(tensor, kept)
    n = zk.noise(33, 1)
    assert_same_bits(out, torch.stack([tensor + n, tensor - n]))


def test_threads_do_not_matter():
    threads, results = torch.get_num_threads(), []
    tensor, streams = torch.ones(5000), list(range(9))
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(zk.perturbed(tensor, [1] * 9, [0.1] * 9, streams=streams))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert_same_bits(other, results[0])


REFUSED = [
    ({"coeffs": [1.0]}, "coeffs has 1 entries where 2"),
    ({"coeffs": [1.0, float("inf")]}, "coeffs holds a number that is not finite"),
    ({"streams": [0]}, "streams has 1 entries where 2"),
    ({"tensor": torch.ones(3, dtype=torch.int32)}, "tensor.*int32"),
    ({"param": 2**32}, "param has 4294967296"),
    ({"rounding": "up"}, "rounding='up'"),
    ({"prev": torch.ones(4)}, "prev is"),
    ({"prev": torch.ones(2, 3)}, "prev_rows"),
    ({"prev_rows": [0, 0]}, "prev_rows"),
    ({"v": torch.ones(3, dtype=torch.float16)}, "float16"),
    ({"prev": torch.ones(3), "v": torch.ones(3).bfloat16()}, "keep both in one form"),
    ({"prev": zk.quantise(torch.ones(3), 256)}, "offset=0"),
    ({"out": torch.ones(2, 4)}, "out is"),
    ({"backend": "cuda"}, "cuda"),
]


@pytest.mark.parametrize("wrong, said", REFUSED, ids=[said for _, said in REFUSED])
def test_refusals(wrong, said):
    given = {"tensor": torch.ones(3), "seeds": [1, 2], "coeffs": [1.0, 1.0], **wrong}
    with pytest.raises((ValueError, TypeError, RuntimeError), match=said):
        zk.perturbed(given.pop("tensor"), given.pop("seeds"), given.pop("coeffs"), **given)
