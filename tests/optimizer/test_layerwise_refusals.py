"""What restore="layerwise" would evaluate unperturbed is refused, by name, or told."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from zopro import ZOPrO

from .helpers import copies, same_bits
from .tiny_module import Tiny, made

REFUSED = {
    "head": (lambda m: linear(m.embed(m.ids), m.head.weight).sum(), "embed.weight"),
    "view": (lambda m: linear(m.embed(m.ids), m.head.weight.detach().t().t()).sum(), "embed"),
    "penalty": (lambda m: m() + m.block.scale.square().sum(), "block.scale"),
    "pointer": (lambda m: m() + 0.0 * m.block.scale.data_ptr(), "block.scale"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_read_outside_the_modules_forward_is_refused(case):
    closure, name = REFUSED[case]
    model = Tiny()
    before, opt = copies(model.parameters()), made(model)
    with pytest.raises(RuntimeError, match=f"parameter '{name}.*outside its module's forward"):
        opt.step(lambda: closure(model))
    assert same_bits(before, model.parameters())
    assert torch.isfinite(opt.step(model))
    with pytest.raises(RuntimeError, match="outside"), opt.perturbed(1.0):
        closure(model)


def fused(m):
    """A loss that reads the head's weight itself."""
    return linear(m.block(m.embed(m.ids)), m.embed.weight).sin().sum()


def test_what_is_held_may_be_read():
    """By a fused loss, say; bits and memory of the others as without."""
    losses = []
    for restore in ("exact", "layerwise"):
        model = Tiny()
        opt = made(model, restore)
        opt.attach(model, held=model.head.parameters())
        stored = model.head.weight.data_ptr()
        model.head = nn.Identity()  # it does not run
        for _ in range(3):
            losses.append(
                opt.step(
                    lambda m=model: linear(m.block(m.embed(m.ids)), m.embed.weight).sin().sum()
                )
            )
        assert model.embed.weight.data_ptr() == stored
        assert not opt._weights._held if restore == "layerwise" else True
    assert losses[:3] == losses[3:]


def test_names_and_shapes_may_be_read():
    model = Tiny()
    opt = made(model)
    opt.step(
        lambda: model() * (model.head.weight.dtype == torch.float32) * model.embed.weight.dim()
    )


def test_a_module_that_returns_its_parameter_is_refused():
    class Returns(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.rand(3, 4))

        def forward(self):
            return {"first": self.position[:2]}

    model = nn.Sequential(Returns(), nn.Identity())
    opt = made(model)
    with pytest.raises(RuntimeError, match="forward of '0' returns a view of its parameter"):
        opt.step(lambda: model[0]()["first"].sum())


def test_a_module_that_does_not_run_is_told(caplog):
    model = Tiny()
    model.unused = nn.Linear(3, 3)
    opt = made(model)
    for _ in range(2):
        opt.step(model)
    assert caplog.text.count("no forward of 'unused'") == 1


def test_two_threads_are_refused():
    model = Tiny()
    opt, caught = made(model), []
    inside, leave = threading.Event(), threading.Event()

    def waits(*_):
        inside.set()
        leave.wait(20)

    model.block.inner.register_forward_hook(waits)

    def other():
        try:
            inside.wait(20)
            model.embed(model.ids)
        except RuntimeError as error:
            caught.append(str(error))
        finally:
            leave.set()

    def closure():
        if inside.is_set():  # the second evaluation: who comes first is not arranged any more
            return model()
        thread = threading.Thread(target=other)
        thread.start()
        loss = model()
        thread.join()
        return loss

    opt.step(closure)
    assert caught and "two threads run the model in one closure" in caught[0]


def test_what_cannot_be_attached():
    model = Tiny()
    opt = ZOPrO(model.parameters(), restore="layerwise")
    with pytest.raises(RuntimeError, match=r"call attach\(model\) first"):
        opt.step(model)
    with pytest.raises(TypeError, match="model is a list"):
        opt.attach([model])
    compiled = Tiny()
    compiled.block.compile(backend="eager")
    for wrapped in (torch.compile(model, backend="eager"), compiled, nn.DataParallel(model)):
        with pytest.raises(ValueError, match="compiled or replicated"):
            opt.attach(wrapped)
    opt.attach(Tiny())
    with pytest.raises(ValueError, match="no module that owns parameter 0 of the optimizer"):
        opt.step(model)
    with pytest.raises(ValueError, match="lookahead=True with restore='layerwise'"):
        ZOPrO(model.parameters(), restore="layerwise", lookahead=True)
    opt.attach(model)
    assert opt.restore_policy == "layerwise"
    with opt.perturbed(1.0), pytest.raises(RuntimeError, match="attach inside perturbed"):
        opt.attach(None)
