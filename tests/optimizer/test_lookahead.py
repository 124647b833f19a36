"""lookahead=True: two passes a step, the same steps, and theta wherever somebody looks."""

from __future__ import annotations

import copy

import pytest
import torch

from zopro import ZOPrO, aiming
from zopro_kernels import cpu

from .helpers import copies, parameters, quadratic, same_bits

CASES = {
    "plain": {},
    "three directions": {"num_directions": 3},
    "gaussian, decay": {"distribution": "gaussian", "weight_decay": 0.1},
    "targeted": {"targets": True},
}


def made(case, lookahead, lr=1e-3, eps=1e-2):
    case = dict(case)
    aimed = case.pop("targets", False)
    params = parameters((40, 9), (5,))
    opt = ZOPrO(
        params, lr=lr, eps=eps, restore="inplace", lookahead=lookahead, backend="cpu",
        **case,
    )  # fmt: skip
    if aimed:
        opt.set_targets(copies(params), copies(params[::-1])[::-1], steps=50)
    return params, opt


@pytest.fixture
def passes(monkeypatch):
    """Kernel calls so far, and "reductions", and foreach copies."""
    counts = {"add_noise_": 0, "noise_dots": 0, "copies": 0}
    for name in ("add_noise_", "noise_dots"):
        kernel = getattr(cpu, name)

        def counted(work, name=name, kernel=kernel):
            counts[name] += 1
            return kernel(work)

        monkeypatch.setattr(cpu, name, counted)
    copy_ = torch._foreach_copy_

    def counted_copy(*args):
        counts["copies"] += 1
        return copy_(*args)

    monkeypatch.setattr(torch, "_foreach_copy_", counted_copy)
    return counts


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("halves", [False, True])
def test_passes_of_a_step(passes, targeted, lookahead, halves):
    """Perturb, flip, restore + update; the first and the last in one with lookahead. `estimate`
    and `step` apart cost no more where nothing looks between them."""
    params, opt = made({"targets": targeted}, lookahead)
    loss = quadratic(params)
    opt.step(loss)
    passes.update(dict.fromkeys(passes, 0))
    for _ in range(4):
        if halves:
            opt.estimate(loss, restore=False)
            opt.step()
        else:
            opt.step(loss)
    each = 2 if lookahead else 3
    assert passes == {"add_noise_": 4 * each, "noise_dots": 4 * targeted, "copies": 0}


@pytest.mark.parametrize("case", CASES)
def test_the_steps_are_those_without(case):
    """Losses and weights up to the rounding of one pass in fp32, the directions to the bit."""
    (a, plain), (b, ahead) = made(CASES[case], False), made(CASES[case], True)
    for _ in range(8):
        x, y = plain.step(quadratic(a)), ahead.step(quadratic(b))
        assert plain.last.seed == ahead.last.seed
        assert x.item() == pytest.approx(y.item(), rel=1e-5)
    assert not all(torch.allclose(p, q, rtol=0, atol=1e-3) for p, q in zip(a, b))
    ahead.settle()
    for p, q in zip(a, b):
        ulp = torch.finfo(torch.float32).eps * p.abs().max()
        assert (p - q).abs().max() < 30 * ulp
    before = copies(b)
    ahead.settle()
    assert same_bits(before, b)


def test_with_lr_0_the_weights_come_back():
    params, opt = made({}, True, lr=0.0)
    before = copies(params)
    for _ in range(3):
        opt.step(quadratic(params))
    opt.settle()
    assert all((p - q).abs().max() < 1e-6 for p, q in zip(params, before))


LOOKERS = {
    "state_dict": lambda opt: opt.state_dict(),
    "deepcopy": copy.deepcopy,
    "targets": lambda opt: opt.set_targets([torch.ones_like(p) for p in opt._flat()], steps=9),
    "clear": lambda opt: opt.clear_targets(),
    "group": lambda opt: opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]}),
    "settle": lambda opt: opt.settle(),
}


@pytest.mark.parametrize("looker", LOOKERS)
def test_whoever_looks_sees_theta(looker):
    (a, plain), (b, ahead) = made({}, False), made({}, True)
    for _ in range(2):
        plain.step(quadratic(a))
        ahead.step(quadratic(b))
    LOOKERS[looker](ahead)
    assert all(torch.allclose(p, q, rtol=0, atol=1e-6) for p, q in zip(a, b))
    ahead.step(quadratic(b))


def test_perturbed_starts_and_ends_at_theta():
    params, opt = made({}, True)
    opt.step(quadratic(params))
    other = copy.deepcopy(params)
    with opt.perturbed(0.0):
        theta = copies(params)
    assert all(torch.allclose(p, q, rtol=0, atol=1e-6) for p, q in zip(params, theta))
    assert not all(torch.allclose(p, q, rtol=0, atol=1e-3) for p, q in zip(other, theta))


def test_a_new_eps_is_taken_and_so_is_a_frozen_parameter():
    params, opt = made({}, True)
    opt.step(quadratic(params))
    opt.param_groups[0]["eps"] = 0.05
    opt.step(quadratic(params))
    assert opt.last.eps == (0.05,)
    params[1].requires_grad_(False)
    opt.settle()
    before = params[1].detach().clone()
    opt.step(quadratic(params))
    assert torch.equal(params[1], before)


def test_auto_eps():
    params, opt = made({}, True, eps="auto")
    for _ in range(3):
        opt.step(quadratic(params))
    assert isinstance(opt.param_groups[0]["eps"], float) and opt.step_count == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_skipped_step_moves_on_to_the_next_direction(bad):
    params, opt = made({"weight_decay": 0.5}, True)
    before = copies(params)
    opt.step(lambda: bad)
    assert opt.skipped_steps == 1
    opt.settle()
    assert all((p - q).abs().max() < 1e-6 for p, q in zip(params, before))
    opt.step(quadratic(params))
    assert opt.skipped_steps == 1 and opt.last.step == 1


def test_an_error_of_the_closure_leaves_theta():
    params, opt = made({}, True)
    opt.step(quadratic(params))
    opt.settle()
    before = copies(params)
    opt.step(lambda: 1.0)  # slope 0: theta stays, the perturbation of the next step is stored

    def fails():
        raise KeyError("closure")

    with pytest.raises(KeyError):
        opt.step(fails)
    assert all((p - q).abs().max() < 1e-6 for p, q in zip(params, before))
    opt.step(quadratic(params))


def test_a_direction_that_is_not_finite_is_none(monkeypatch):
    """v.n past its integers: the step is skipped, the weights stay where they are known to be."""
    dots = aiming._dots
    params, opt = made({"targets": True}, True)
    opt.step(quadratic(params))
    opt.settle()
    before = copies(params)

    def beyond(*args):
        vn, nn = dots(*args)
        return vn * float("nan"), nn

    monkeypatch.setattr(aiming, "_dots", beyond)
    for _ in range(3):  # the first one's direction was drawn before
        theta = copies(params)
        opt.step(lambda: 1.0)
    assert opt.skipped_steps == 2 and same_bits(theta, params)
    opt.settle()
    assert all((p - q).abs().max() < 1e-6 for p, q in zip(params, before))


def test_refusals():
    for wrong in ({"restore": "exact"}, {"estimator": "one_sided"}):
        with pytest.raises(ValueError, match="lookahead=True with restore="):
            ZOPrO(parameters((3,)), lookahead=True, **wrong)
    with pytest.raises(ValueError, match="lookahead=True with capturable=True: a captured step"):
        ZOPrO(parameters((3,)), lookahead=True, capturable=True)
    assert ZOPrO(parameters((3,)), lookahead=True).restore_policy == "inplace"
