"""Seeds and coefficients as tensors: bits as from numbers; what is not finite writes nothing."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from kernels.bits import assert_same_bits

import zopro_kernels as zk

BACKENDS = [name for name in ("reference", "cpu", "triton") if zk.backends()[name] == "available"]
if importlib.util.find_spec("triton") is None:
    BACKENDS = [name for name in BACKENDS if name != "triton"]
ON_CPU = [b for b in BACKENDS if b != "triton" or not torch.cuda.is_available()]
every = pytest.mark.parametrize("backend", ON_CPU)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(3000,), (), (0,), (40, 30), (5,)]


def tensors(dtype=None) -> list[torch.Tensor]:
    """Zeros of both signs among numbers; all dtypes where none is asked for."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for i, shape in enumerate(SHAPES):
        x = torch.randn(shape, generator=generator).to(dtype or DTYPES[i % 3])
        out.append(torch.where(x.abs() < 0.3, -0.0, x).to(x.dtype))
    return out


def companions(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def run(x, backend, wrap, seeds, streams, coeffs, decay, prev_coeffs=0.3, **more):
    zk.add_noise_(
        x, seeds, wrap(coeffs), decay=wrap(decay), streams=streams, prev=companions(1),
        prev_coeffs=wrap(prev_coeffs), v=companions(2), v_coeffs=wrap([0.1, 0.2, 0.3, 0.0, -1.0]),
        rounding="stochastic", backend=backend, **more,
    )  # fmt: skip


@every
@pytest.mark.parametrize("dtype", [*DTYPES, None], ids=str)
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_tensors_give_the_bits_of_numbers(backend, dtype, distribution):
    """Without rounding_seed, so that it too comes from the seeds; fp64 is rounded once."""
    a, b = tensors(dtype), tensors(dtype)
    seeds, coeffs = [2**64 - 1, 7], [[0.1, -1e-9]] * 4 + [[3.0, 1 / 3]]
    kw = dict(distribution=distribution, coeffs=coeffs, decay=[1.0, 0.9, 1.0, 1.0, 0.5])
    run(a, backend, lambda x: x, seeds, [0, 2**32 - 1], **kw)
    as_bits = torch.tensor([-1, 7])
    fp64 = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    run(b, backend, fp64, as_bits, torch.tensor([0, 2**32 - 1]), **kw)
    for t, (x, y) in enumerate(zip(a, b)):
        assert_same_bits(y, x, f"tensor {t}")


BAD = {
    "coeffs": lambda c, d, p: (c + torch.tensor([[0.0], [0], [0], [float("nan")], [0]]), d, p),
    "beyond fp32": lambda c, d, p: (c * 1e39, d, p),
    "decay": lambda c, d, p: (c, d + torch.tensor([0.0, 0, 0, float("inf"), 0]), p),
    "prev_coeffs": lambda c, d, p: (c, d, p * float("-inf")),
}


@every
@pytest.mark.parametrize("what", BAD)
def test_one_that_is_not_finite_stops_the_whole_pass(backend, what):
    """For tensors of every dtype and stride, and to the bit: -0.0 and NaN payloads stay."""
    x = tensors()
    x[3] = x[3].t().contiguous().t()
    x[0].view(-1)[5] = float("nan")
    before = [t.clone() for t in x]
    c, d, p = torch.ones(5, 1, dtype=torch.float64), torch.ones(5).double(), torch.tensor(0.5)
    c, d, p = BAD[what](c, d, p)
    zk.add_noise_(
        x, torch.tensor([3]), c, decay=d, prev=companions(1), prev_coeffs=p, backend=backend
    )
    for t, (a, b) in enumerate(zip(x, before)):
        assert_same_bits(a, b, f"tensor {t}")
    zk.add_noise_(x, torch.tensor([3]), torch.ones(5, 1), backend=backend)
    assert all(not torch.equal(a, b) for a, b in zip(x, before) if a.numel())


@every
@pytest.mark.parametrize("wrap", [lambda x: x, torch.tensor], ids=["numbers", "tensors"])
def test_what_the_coefficients_leave_alone_is_not_written(backend, wrap):
    x = tensors()
    before = [t.clone() for t in x]
    coeffs = [[0.0], [1.0], [0.0], [0.0], [0.0]]
    zk.add_noise_(x, [3], wrap(coeffs), decay=wrap([1.0, 1.0, 1.0, 1.0, 0.5]), backend=backend)
    for t in (0, 2, 3):
        assert_same_bits(x[t], before[t], f"tensor {t}")
    assert not torch.equal(x[1], before[1]) and not torch.equal(x[4], before[4])


def test_numbers_that_are_not_finite_still_raise():
    for given in ([float("nan")], [1e39], float("nan")):
        with pytest.raises(ValueError, match="not finite in fp32"):
            zk.add_noise_([torch.ones(3)], [1], given if isinstance(given, list) else [1.0],
                          decay=1.0 if isinstance(given, list) else given)  # fmt: skip


def test_refusals():
    x = [torch.ones(3)]
    with pytest.raises(TypeError, match=r"seeds is a torch.float32 tensor of shape \(1,\): give"):
        zk.add_noise_(x, torch.ones(1), [1.0])
    with pytest.raises(TypeError, match=r"seeds is a torch.int64 tensor of shape \(\): give int64"):
        zk.add_noise_(x, torch.tensor(1), [1.0])
    with pytest.raises(ValueError, match="streams has 2 entries where 1 are needed"):
        zk.add_noise_(x, [1], [1.0], streams=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"coeffs has shape \(2,\) for 1 seeds and 1 tensors"):
        zk.add_noise_(x, [1], torch.ones(2))
    with pytest.raises(ValueError, match=r"norms has shape \(2,\): give \[1\]"):
        zk.noise_dots(x, 1, norms=torch.ones(2))
    assert (x[0] == 1).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # Triton's interpreter says so
@every
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_dots_beyond_their_integers_are_nan(backend, distribution):
    """||v|| ||n|| past 2^23, NaN and infinity: v.n is NaN, n.n stays, other tensors too."""
    good = torch.nn.functional.normalize(torch.ones(1 << 12), dim=0)
    nan, infinite, huge = good.clone(), good.clone(), good * 2.0**18
    nan[77], infinite[78] = float("nan"), float("inf")
    vectors = [good, nan, infinite, huge, good * 2.0**16]
    kw = dict(distribution=distribution, params=[0] * 5, backend=backend)
    dots = zk.noise_dots(vectors, 4, **kw)
    assert dots[:, 0].isnan().tolist() == [False, True, True, True, False]
    assert (dots[:, 1] == dots[0, 1]).all()
    assert dots[4, 0].item() == pytest.approx(2.0**16 * dots[0, 0].item(), rel=1e-4)
    norms = torch.tensor([1.0, 1.0, 1.0, 2.0**18, 2.0**16], dtype=torch.float64)
    known = zk.noise_dots(vectors, 4, norms=norms, **kw)
    assert known[[0, 3, 4], 0].isnan().tolist() == [False, True, False]
    assert_same_bits(known[[0, 4]], dots[[0, 4]], "norms given")


def test_dots_of_no_and_of_empty_vectors():
    assert zk.noise_dots([], 1).shape == (0, 2)
    for backend in ON_CPU:
        dots = zk.noise_dots([torch.ones(0), torch.ones(3)], 1, backend=backend)
        assert dots[:, 1].tolist() == [0.0, 3.0] and dots[0, 0] == 0
