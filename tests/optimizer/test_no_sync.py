"""A step waits for no device: nothing reads a value back, and nothing goes there but queued.

On the CPU a mode refuses the operations that would make a GPU wait; where there is a GPU, torch's
own check refuses them.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import zopro_kernels as zk
from zopro import ZOPrO
from zopro.targets import Targets

from .helpers import copies, parameters, same_bits

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select,
    aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount,
}  # fmt: skip
METHODS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.cpu}


class NoReads(TorchDispatchMode):
    """Refuses what reads a value, selects by one, or copies between devices."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = function.overloadpacket
        by_mask = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        there = kwargs.get("device")
        other = there is not None and args and isinstance(args[0], torch.Tensor)
        if packet in READS or by_mask or (other and torch.device(there) != args[0].device):
            raise AssertionError(f"{function} makes the host wait")
        return function(*args, **kwargs)


class NoMethods(TorchFunctionMode):
    """tolist() and the like of a CPU tensor reach no operator, so they are refused by name."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in METHODS:
            raise AssertionError(f"{function} makes the host wait")
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_reads():
    with NoMethods(), NoReads():
        yield


@pytest.fixture
def interpreter_may_read(monkeypatch):
    """What Triton's interpreter does inside a launch is no part of ours: the modes stop there."""
    pytest.importorskip("triton", reason="triton is not installed")
    if torch.cuda.is_available():
        pytest.skip("triton compiles here: the test on the GPU sees it")
    from triton.runtime.interpreter import GridExecutor

    launch = GridExecutor.__call__

    def alone(self, *args, **kwargs):
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            return launch(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", alone)


def test_the_modes_refuse():
    x, mask = torch.ones(3), torch.tensor([True, False, True])
    reads = (x.sum().item, lambda: bool(x[0] > 0), lambda: float(x[0]), x.tolist, x.numpy,
             x.nonzero, lambda: x[mask], lambda: x.to("meta"), lambda: x.cpu())  # fmt: skip
    for read in reads:
        with pytest.raises(AssertionError, match="makes the host wait"), no_reads():
            read()


def optimizer(params, case, **options):
    opt = ZOPrO(
        [{"params": params[:1], "eps": 0.25}, {"params": params[1:], "weight_decay": 0.1}],
        lr=1e-4, eps=0.5, **case, **options,
    )  # fmt: skip
    return opt


def aim(opt, params, *, reward=True):
    """Targets as set_targets leaves them, which reads what it is given."""
    prev = {p: torch.ones_like(p, dtype=torch.float32) for p in params}
    v = dict.fromkeys(params)
    if reward:  # not all: the rest takes no part in the reduction
        v[params[0]] = torch.full_like(params[0], params[0].numel() ** -0.5, dtype=torch.float32)
    norm = {p: float(p.numel()) ** 0.5 for p in params}
    v_norm = {p: float(v[p] is not None) for p in params}
    opt._targets = Targets(prev, v, norm, v_norm, "constant", None, 0.1, 0)


def loss_of(params):
    return sum((p.float() * (i + 1)).sum() for i, p in enumerate(params)).square()


CASES = [
    {"estimator": estimator, "restore": restore, "num_directions": k, "distribution": noise}
    for estimator in ("two_sided", "one_sided")
    for restore in ("exact", "inplace")
    for k, noise in ((1, "rademacher"), (3, "gaussian"))
]


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))
def test_on_the_cpu(case, targeted, scheduled):
    """The backend "cpu" reads coefficients where they lie, in the host's own memory."""
    params = parameters((6, 4), (5,))
    opt = optimizer(params, case)
    if targeted:
        aim(opt, params)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1) if scheduled else None
    nan = torch.tensor(float("nan"))
    opt.step(lambda: loss_of(params))
    with NoReads():
        loss = opt.step(lambda: loss_of(params))
        if scheduler is not None:
            scheduler.step()
    assert opt.skipped_steps == 0 and not opt.last.skipped and torch.isfinite(loss)
    opt.estimate(lambda: loss_of(params))
    before = copies(params)
    with NoReads():
        opt.estimate(lambda: nan)
        opt.step()
    assert opt.skipped_steps == 1 and opt.last.skipped
    if case["restore"] == "exact":
        assert same_bits(params, before)
    else:
        assert all(torch.allclose(p, b, rtol=0, atol=1e-5) for p, b in zip(params, before))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("restore", ["exact", "inplace"])
def test_through_the_kernels_of_a_gpu(interpreter_may_read, restore, targeted):
    """The whole way but the launch itself: tables, seeds, coefficients, results of reductions."""
    params = [*parameters((20,)), *parameters((3, 3), dtype=torch.bfloat16)]
    opt = optimizer(params, {"restore": restore}, backend="triton")
    if targeted:
        aim(opt, params)
    opt.step(lambda: loss_of(params))
    before = copies(params)
    with no_reads():
        opt.step(lambda: torch.full((), float("nan")))
    if restore == "exact":
        assert same_bits(params, before)
    with no_reads():
        opt.step(lambda: loss_of(params))
    assert opt.skipped_steps == 1
    assert not same_bits(params, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))
def test_on_a_gpu(case, targeted, backend):
    if (state := zk.backends()[backend]) != "available":
        pytest.skip(f"backend {backend}: {state}")
    params = [torch.nn.Parameter(p.detach().cuda()) for p in parameters((64, 33), (5,))]
    params.append(torch.nn.Parameter(torch.ones(7, device="cuda", dtype=torch.bfloat16)))
    opt = optimizer(params, case, backend=backend)
    if targeted:
        aim(opt, params)
    nan = torch.tensor(float("nan"), device="cuda")
    opt.step(lambda: loss_of(params))
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        opt.step(lambda: loss_of(params))
        scheduler.step()
        opt.step(lambda: 1.0)
        before = copies(params)
        opt.step(lambda: nan)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert opt.skipped_steps == 1
    if case["restore"] == "exact":
        assert same_bits(params, before)
