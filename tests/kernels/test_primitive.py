"""The primitive's meaning, shown on the reference against float64, and the shapes it accepts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.bits import assert_same_bits

import zopro_kernels as zk
from zopro_kernels.dispatch import backends

AVAILABLE = [name for name, state in backends().items() if state == "available"]
ON_CPU = [name for name in AVAILABLE if name in ("reference", "cpu")]
both = pytest.mark.parametrize("backend", ON_CPU)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@both
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_sum_of_all_terms(backend, distribution):
    torch.manual_seed(0)
    theta, prev, v = torch.randn(3, 5000).unbind()
    expected = 0.5 * theta.double() + 0.25 * prev.double() - 2.0 * v.double()
    for seed, c, stream in ((7, 0.125, 0), (2**64 - 1, -3.0, 4)):
        n = zk.noise(5000, seed, param=3, stream=stream, offset=11, distribution=distribution)
        expected += c * n.double()
    zk.add_noise_(
        [theta], [7, 2**64 - 1], [0.125, -3.0], decay=0.5, distribution=distribution, params=[3],
        streams=[0, 4], offsets=[11], prev=[prev], prev_coeffs=0.25, v=[v], v_coeffs=-2.0,
        backend=backend,
    )  # fmt: skip
    assert (theta - expected).abs().max() < 1e-5


@both
@pytest.mark.parametrize("numel", [0, 1, 3, 1023, 4097])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shards_and_chunks_give_the_whole(backend, numel, dtype):
    torch.manual_seed(1)
    whole = torch.randn(numel).to(dtype)
    parts = [p.clone() for p in whole.tensor_split(5)]
    kw = dict(distribution="gaussian", rounding="stochastic", backend=backend)
    zk.add_noise_([whole], [3], [0.1], offsets=[2**33 + 5], params=[0], **kw)
    start = 2**33 + 5
    for part in parts:
        zk.add_noise_([part], [3], [0.1], offsets=[start], params=[0], **kw)
        start += part.numel()
    assert_same_bits(torch.cat(parts), whole)


@both
def test_views_are_written_in_row_major_order(backend):
    flat = zk.noise(600 * 500, 9)
    views = {
        "transposed": torch.zeros(500, 600).t(),
        "every other row": torch.zeros(1200, 500)[::2],
        "misaligned": torch.zeros(600 * 500 + 1)[1:].view(600, 500),
        "channels last": torch.zeros(10, 30, 10, 100).to(memory_format=torch.channels_last),
        "scalar steps": torch.zeros(600, 1000)[:, ::2],
    }
    for name, view in views.items():
        zk.add_noise_([view], [9], [1.0], backend=backend)
        assert_same_bits(view.reshape(-1), flat, name)
    outside = torch.zeros(1200, 500)
    zk.add_noise_([outside[::2]], [9], [1.0], backend=backend)
    assert outside[1::2].abs().sum() == 0


@both
def test_many_tensors_of_all_kinds_in_one_call(backend):
    shapes = [(0,), (1,), (3, 5), (1023,), (64, 65), ()]
    torch.manual_seed(2)
    tensors = [torch.randn(s).to(d) for s in shapes for d in DTYPES]
    alone = [t.clone() for t in tensors]
    zk.add_noise_(tensors, [1, 2], [0.1, 0.2], decay=0.9, backend=backend)
    for i, t in enumerate(alone):
        zk.add_noise_([t], [1, 2], [0.1, 0.2], decay=0.9, params=[i], backend=backend)
        assert_same_bits(tensors[i], t, f"tensor {i}")


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_is_unbiased(backend, dtype):
    # 1 + u for u well below one unit in the last place; fp16 also among its subnormals.
    for base, step in ((1.0, 1e-4), *(((2.0**-18, 2.0**-26),) if dtype == torch.float16 else ())):
        x = torch.full((1 << 20,), base, dtype=dtype)
        zk.add_noise_([x], [4], [0.0], prev=[torch.full(x.shape, step)], prev_coeffs=1.0,
                      rounding="stochastic", backend=backend)  # fmt: skip
        moved = x.double() - torch.tensor(base, dtype=dtype).double()
        error = moved.std() / 2**10
        assert abs(moved.mean() - step) < 4.5 * error
        zero = torch.full((16,), base, dtype=dtype)
        zk.add_noise_([zero], [4], [0.0], rounding="stochastic", backend=backend)
        assert (zero == torch.tensor(base, dtype=dtype)).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_backends_agree_on_anything(data):
    """Shapes, strides, dtypes, seeds, offsets and coefficients drawn at random; bits compared."""
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    steps = [data.draw(st.integers(1, 3)) for _ in shape]
    big = torch.randn([s * k for s, k in zip(shape, steps)]).to(dtype)
    seeds = data.draw(st.lists(st.integers(0, 2**64 - 1), max_size=4))
    finite = st.floats(-4, 4, width=32)
    arguments = dict(
        coeffs=[data.draw(finite) for _ in seeds],
        streams=[data.draw(st.integers(0, 2**32 - 1)) for _ in seeds],
        decay=data.draw(finite),
        distribution=data.draw(st.sampled_from(["rademacher", "gaussian"])),
        params=[data.draw(st.integers(0, 2**32 - 1))],
        offsets=[data.draw(st.integers(0, 2**62))],
        rounding=data.draw(st.sampled_from(["nearest", "stochastic"])),
        rounding_seed=data.draw(st.integers(0, 2**64 - 1)),
    )
    results = []
    for backend in ON_CPU:
        view = big.clone()[tuple(slice(None, None, k) for k in steps)]
        zk.add_noise_([view], seeds, backend=backend, **arguments)
        results.append(view.contiguous())
    for other in results[1:]:
        assert_same_bits(other, results[0], str(arguments))


@both
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_noise_dots(backend, distribution):
    torch.manual_seed(3)
    v = torch.nn.functional.normalize(torch.randn(100_000), dim=0)
    n = zk.noise(100_000, 8, param=2, stream=1, distribution=distribution).double()
    kw = dict(stream=1, distribution=distribution, backend=backend)
    (whole,) = zk.noise_dots([v], 8, params=[2], **kw)
    assert whole[0].item() == pytest.approx((v.double() @ n).item(), abs=1e-6)
    assert whole[1].item() == pytest.approx((n @ n).item(), rel=1e-6)
    parts = zk.noise_dots(
        list(v.split(33_333)), 8, params=[2] * 4, offsets=[33_333 * i for i in range(4)], **kw
    )
    assert_same_bits(parts.sum(0), whole)  # integer sums: shards add up to the bit
