"""The CUDA kernels on a GPU against the reference on the CPU, bit by bit."""

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

import zopro_kernels as zk
from zopro_kernels import cuda, reference

if cuda.status() != "available":
    pytest.skip(f"backend cuda: {cuda.status()}", allow_module_level=True)


def compare(make) -> None:
    ours, oracle = make("cuda"), make("cpu")
    cuda.add_noise_(ours)
    reference.add_noise_(oracle)
    for t, (a, b) in enumerate(zip(ours.tensors, oracle.tensors)):
        assert_same_bits(a, b, f"tensor {t}")


@pytest.mark.parametrize("targets", ("", "prev", "v", "prev and v"))
@pytest.mark.parametrize("seeds", (0, 1, 3))
@pytest.mark.parametrize("stochastic", (False, True))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_pass(distribution, dtype, stochastic, seeds, targets):
    def make(device):
        return make_pass(
            dtype, device, distribution, seeds, stochastic=stochastic, prev="prev" in targets,
            v="v" in targets.split(),
        )  # fmt: skip

    compare(make)


@pytest.mark.parametrize("form", ("bf16", "int8"))
@pytest.mark.parametrize("targets", ("prev", "v", "prev and v"))
@pytest.mark.parametrize("seeds", (0, 1, 3))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_kept_smaller(distribution, dtype, seeds, targets, form):
    def make(device):
        return make_pass(
            dtype, device, distribution, seeds, prev="prev" in targets, v="v" in targets.split(),
            form=form,
        )  # fmt: skip

    compare(make)


@pytest.mark.parametrize("stochastic", (False, True), ids=("nearest", "stochastic"))
@pytest.mark.parametrize("targets,form", TARGETS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_sequence(distribution, dtype, targets, form, stochastic):
    options = options_of(targets, form, stochastic)
    ours, oracle = (make_sequence(dtype, d, distribution, **options) for d in ("cuda", "cpu"))
    cuda.add_noise_sequence_(ours)
    reference.add_noise_sequence_(oracle)
    for t, (a, b) in enumerate(zip(ours.tensors, oracle.tensors)):
        assert_same_bits(a, b, f"tensor {t}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_misaligned_views(distribution, dtype):
    def make(device):
        one = torch.ones(3)
        return Pass(
            misaligned(dtype, device), [0, 1, 2], [0, 8, 16], distribution, [3], [0],
            one.view(3, 1), one,
        )  # fmt: skip

    compare(make)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_16_bit_value_and_half_way_case(dtype):
    """The hardware's rounding is the law's: all 2^16 stored values, moved by less and by more
    than half a unit, and fp32 NaNs and infinities brought in by prev."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    scale = torch.tensor([0.0, 2.0**-9, 3 * 2.0**-10, 2.0**-8, 2.0**-12, 2.0**-25])
    prev = (every.float().nan_to_num(1.0)[None, :] * scale[:, None]).reshape(-1)
    prev.view(torch.int32)[::9973] = 0x7F800001

    def make(device):
        one = torch.ones(1)
        theta = every.repeat(len(scale)).to(device)
        return Pass(
            [theta], [0], [0], "rademacher", [], [], one.view(1, 1)[:, :0], one,
            [prev.clone().to(device)], one,
        )  # fmt: skip

    compare(make)


@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_noise_dots(distribution):
    ours = cuda.noise_dots(make_dots("cuda", distribution))
    assert_same_bits(ours, reference.noise_dots(make_dots("cpu", distribution)), "v.n and n.n")


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_four_million_elements(distribution, dtype):
    def make(device):
        zero, one = torch.zeros(4_200_000, device=device, dtype=dtype), torch.ones(1)
        return Pass([zero], [5], [2**32 - 1000], distribution, [77], [1], one.view(1, 1), one)

    compare(make)


def test_another_stream_and_a_second_call():
    """The cached table and the scalars' buffer are safe to use again, on another stream too."""
    side = torch.cuda.Stream()
    ours, oracle = (make_pass(torch.bfloat16, d, "gaussian") for d in ("cuda", "cpu"))
    side.wait_stream(torch.cuda.current_stream())
    for _ in range(2):
        with torch.cuda.stream(side):
            cuda.add_noise_(ours)
        side.synchronize()
        cuda.add_noise_(ours)
        reference.add_noise_(oracle)
        reference.add_noise_(oracle)
    for t, (a, b) in enumerate(zip(ours.tensors, oracle.tensors)):
        assert_same_bits(a, b, f"tensor {t}")


@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_scalars_in_device_memory_are_never_waited_for(distribution):
    """Seeds, streams and coefficients on the device; then one that is not finite, to the bit."""
    tensors = [torch.ones(n, device="cuda", dtype=d) for n in (5000, 3) for d in DTYPES]
    numbers = [x.clone() for x in tensors]
    seeds, streams = torch.tensor([-1, 7], device="cuda"), torch.tensor([0, 5], device="cuda")
    coeffs = torch.tensor([0.25, 1e-9], device="cuda", dtype=torch.float64)
    stop = coeffs * float("nan")
    kw = dict(distribution=distribution, rounding="stochastic", backend="cuda")
    zk.add_noise_(tensors, seeds, 0 * coeffs, streams=streams, **kw)  # fills tables
    zk.noise_dots([tensors[0]], 3, distribution=distribution, backend="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        zk.add_noise_(tensors, seeds, coeffs, streams=streams, **kw)
        zk.add_noise_(tensors, seeds, stop, streams=streams, decay=0.5, **kw)
        dots = zk.noise_dots([tensors[0]], 3, distribution=distribution, backend="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    zk.add_noise_(numbers, [2**64 - 1, 7], [0.25, 1e-9], streams=[0, 5], **kw)
    for t, (a, b) in enumerate(zip(tensors, numbers)):
        assert_same_bits(a, b, f"tensor {t}")
    assert dots.device.type == "cuda" and torch.isfinite(dots).all()
