"""restore="layerwise": stored weights are theta to the bit at any time, at one layer's memory."""

import copy

import pytest
import torch

from zopro import StepLog, replay
from zopro.layers import Scratch

from .helpers import copies, same_bits
from .tiny_module import Tiny, aim, made

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


CASES = {
    "signs": {},
    "gaussian, three directions": {"distribution": "gaussian", "num_directions": 3},
    "one-sided, nearest": {"estimator": "one_sided", "rounding": "nearest"},
    "targeted": {"targets": True},
    "auto": {"eps": "auto"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_loss_and_weight_is_the_exact_ones(dtype, case):
    """A forward on copies sees the very bits that a perturbation in place stores."""
    options = dict(CASES[case])
    aimed, runs = options.pop("targets", False), []
    for restore in ("exact", "layerwise"):
        model = Tiny(dtype)
        opt = made(model, restore, **options)
        if aimed:
            aim(opt, model)
        losses = []
        model.register_forward_hook(lambda _, __, loss, losses=losses: losses.append(loss))
        for _ in range(6):
            opt.step(model)
        runs.append((losses, list(model.parameters())))
    assert torch.equal(*(torch.stack(losses) for losses, _ in runs))
    assert len({loss.item() for loss in runs[0][0]}) > 6
    assert same_bits(runs[0][1], runs[1][1])


@pytest.mark.parametrize("restore", ["exact", "layerwise"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lr_0_changes_no_bit_in_300_steps(dtype, restore):
    model = Tiny(dtype)
    model.block.scale.data[0] = -0.0
    before, opt = copies(model.parameters()), made(model, restore, lr=0.0)
    for _ in range(300):
        opt.step(model)
    assert same_bits(before, model.parameters())
    with torch.no_grad(), opt.perturbed(1.0):
        assert model() != Tiny(dtype)()


def test_stored_weights_are_theta_inside_the_closure_and_hooks_go():
    model = Tiny()
    before, opt = copies(model.parameters()), made(model, lr=0.0)
    places = [p.data_ptr() for p in model.parameters()]
    opt.step(model)  # the first evaluation is watched
    seen = []

    def closure():
        seen.append(same_bits(before, model.parameters()))
        assert model.embed._forward_hooks
        return model()

    opt.step(closure)
    assert seen == [True, True]
    assert places == [p.data_ptr() for p in model.parameters()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    copy.deepcopy(model)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_a_forward_leaves_theta(error):
    model = Tiny()
    before, opt = copies(model.parameters()), made(model)

    def fails(*_):
        raise error("inside")

    handle = model.block.inner.register_forward_hook(fails)
    for call in (opt.step, opt.estimate):
        with pytest.raises(error, match="inside"):
            call(model)
        assert same_bits(before, model.parameters())
    handle.remove()
    opt.step(model)
    assert not same_bits(before, model.parameters())


def test_a_forward_that_fails_and_is_tried_again():
    """The closure catches the error itself: what follows is perturbed as it should be."""
    plain, model = Tiny(), Tiny()
    opt, exact, tries = made(model), made(plain, "exact"), []

    def fails(*_):
        tries.append(1)
        if len(tries) % 2:
            raise ValueError

    model.block.inner.register_forward_pre_hook(fails)

    def again():
        try:
            return model()
        except ValueError:
            model.block.inner._forward_pre_hooks.popitem()  # the hook of this test is the last
            return model()

    assert torch.equal(opt.estimate(again), exact.estimate(plain))


def test_memory_is_that_of_the_largest_layer(monkeypatch):
    """Of all scratch memory: the linear layer, and the block's own parameter: others run inside."""
    made_of, on = {}, Scratch._on

    def counted(self, device):
        memory = on(self, device)
        made_of[memory.data_ptr()] = memory.numel()
        return memory

    monkeypatch.setattr(Scratch, "_on", counted)
    model = Tiny(width=64)
    opt = made(model)
    for _ in range(3):
        opt.step(model)
    assert sorted(made_of.values()) == [64 * 4, (64 + 1) * 64 * 4]


def test_weights_that_move_and_change_between_steps():
    """A cast, a load, what trains: the next step works on what is there."""
    models = Tiny(), Tiny()
    opts = [made(m, r) for m, r in zip(models, ("exact", "layerwise"))]
    for change in (lambda m: m.bfloat16(), lambda m: m.load_state_dict(Tiny().state_dict()),
                   lambda m: m.block.inner.requires_grad_(False)):  # fmt: skip
        losses = []
        for model, opt in zip(models, opts):
            losses.append(opt.step(model))
            change(model)
            losses.append(opt.step(model))
        assert torch.equal(torch.stack(losses[:2]), torch.stack(losses[2:]))
    assert same_bits(*(m.parameters() for m in models))


def test_its_log_replays_with_one_pass_a_step(tmp_path):
    model = Tiny(torch.bfloat16)
    base, opt = dict(zip(dict(model.named_parameters()), copies(model.parameters()))), made(model)
    with StepLog(tmp_path / "log", opt):
        for _ in range(5):
            opt.step(model)
    replay(tmp_path / "log", base)
    assert same_bits(base.values(), model.parameters())


def test_a_copy_of_the_optimizer_has_no_model():
    model = Tiny()
    opt = made(model)
    opt.step(model)
    other = copy.deepcopy(opt)
    with pytest.raises(RuntimeError, match="call attach"):
        other.step(model)
