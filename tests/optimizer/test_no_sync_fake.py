"""A step on fake CUDA tensors: they hold no values, so an operation that reads one cannot run."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

import zopro.devices
from zopro import aiming, checks, measure, prepared, update
from zopro_kernels import arguments, passes, reduction, table, tensor_set, transfer

from .test_no_sync import CASES, aim, loss_of, optimizer

MODULES = (zopro.devices, aiming, measure, prepared, update, arguments, passes, reduction, table,
           tensor_set, transfer)  # fmt: skip


class Indexing(TorchFunctionMode):
    """x[key] by named operations: Python's own way to them needs a build with CUDA."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not torch.Tensor.__getitem__ or args[0].device.type == "cpu":
            return function(*args, **(kwargs or {}))
        x, key = args
        dim = 0
        for k in key if isinstance(key, tuple) else (key,):
            if isinstance(k, slice):
                x = torch.ops.aten.slice(x, dim, k.start, k.stop, k.step or 1)
            elif isinstance(k, int):
                x, dim = x.select(dim, k), dim - 1
            else:
                assert isinstance(k, torch.Tensor), "a list is copied to the device"
                assert k.dtype == torch.int64, "a mask selects by value"
                x = x.index_select(dim, k)
            dim += 1
        return x


class Launches:
    """A backend without memory: it takes a pass as the CUDA backend does, up to the launch."""

    def __init__(self):
        self.passes = 0

    def add_noise_(self, p):
        device = p.tensors[0].device
        assert device.type == "cuda" and all(x.device == device for x in table.scalars(p))
        assert p.floats.device == device
        self.passes += 1

    def noise_dots(self, d):
        return d.vectors[0].new_zeros(len(d.vectors), 2, dtype=torch.int64)


@pytest.mark.parametrize("number", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))
def test_on_fake_cuda_tensors(monkeypatch, case, targeted, number):
    def queued(x, device):  # in place of the pinned copy, the one way from host to device
        assert x.device.type == "cpu" or x.device == device, "a copy to the host waits"
        return x if x.device == device else torch.empty(x.shape, dtype=x.dtype, device=device)

    for module in MODULES:
        monkeypatch.setattr(module, "moved", queued)
    backend = Launches()
    monkeypatch.setattr(tensor_set, "choose", lambda device, name=None: backend)
    monkeypatch.setattr(tensor_set, "addresses", lambda tensors: [id(t) for t in tensors])
    monkeypatch.setattr(checks, "no_overlap", lambda tensors: None)  # compares addresses
    arguments._identity.cache_clear()
    try:
        with FakeTensorMode(), Indexing():
            made = [torch.ones(4, 3, device="cuda"), torch.ones(5, device="cuda").bfloat16()]
            params = [torch.nn.Parameter(x) for x in made]
            opt = optimizer(params, case)
            if targeted:
                aim(opt, params)
            for _ in range(2):
                opt.estimate((lambda: 1.0) if number else (lambda: loss_of(params)))
                loss = opt.step((lambda: 1.0) if number else (lambda: loss_of(params)))
                assert loss.device.type == ("cpu" if number else "cuda")
    finally:
        arguments._identity.cache_clear()
    assert opt.step_count == 2 and backend.passes > 0
