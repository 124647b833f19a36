"""estimate, step, perturbed: accumulation, what they return, skipped steps, the report."""

import pytest
import torch

from zopro import ZOPrO

from .helpers import copies, noise_of, parameters, quadratic, same_bits


@pytest.mark.parametrize("estimator", ["two_sided", "one_sided"])
@pytest.mark.parametrize("restore", ["exact", "inplace"])
def test_step_with_a_closure_is_estimate_then_step(estimator, restore):
    one, two = parameters((30,)), parameters((30,))
    a = ZOPrO(one, lr=1e-2, estimator=estimator, restore=restore)
    b = ZOPrO(two, lr=1e-2, estimator=estimator, restore=restore)
    for _ in range(3):
        first = a.step(quadratic(one))
        second = b.estimate(quadratic(two))
        assert b.step() is None
    # In place the fused restore rounds once where the halves round twice.
    atol = 0 if restore == "exact" else 1e-6
    assert torch.allclose(one[0], two[0], rtol=0, atol=atol)
    assert first.item() == pytest.approx(second.item(), rel=1e-6)


@pytest.mark.parametrize("directions", [1, 3])
def test_estimates_accumulate_along_one_direction(directions):
    """Two estimates on two halves of a batch make the step of their mean loss."""
    halves, whole = parameters((30,)), parameters((30,))
    x = torch.randn(2, 30, generator=torch.Generator().manual_seed(0)).double()
    part = lambda p, i: (x[i] * p[0].double()).sum() ** 2  # noqa: E731
    a = ZOPrO(halves, lr=1e-4, num_directions=directions)
    b = ZOPrO(whole, lr=1e-4, num_directions=directions)
    for _ in range(2):
        losses = [a.estimate(lambda i=i: part(halves, i)) for i in range(2)]
        a.step()
        mean = b.step(lambda: (part(whole, 0) + part(whole, 1)) / 2)
        assert a.last.seed == b.last.seed
        assert a.last.estimates == 2 and b.last.estimates == 1
        assert a.last.projected_gradients == pytest.approx(b.last.projected_gradients)
        assert a.last.loss == pytest.approx(mean.item())
        assert (sum(losses) / 2).item() == pytest.approx(mean.item())
    assert torch.allclose(halves[0], whole[0], rtol=1e-6)


def test_estimate_leaves_theta_and_step_uses_it_up():
    params = parameters((30,))
    before = copies(params)
    opt = ZOPrO(params, lr=1e-2)
    opt.estimate(quadratic(params))
    assert same_bits(params, before)
    opt.step()
    assert not same_bits(params, before)
    with pytest.raises(RuntimeError, match="without an estimate"):
        opt.step()


@pytest.mark.parametrize(
    ("closure", "dtype"),
    [
        (lambda: 2, torch.float64),
        (lambda: torch.tensor(2.0), torch.float32),
        (lambda: torch.tensor([[2.0]]), torch.float32),
        (lambda: torch.tensor(2.0, dtype=torch.bfloat16), torch.float32),
        (lambda: torch.tensor(2.0, dtype=torch.float64), torch.float64),
        (lambda: torch.tensor(2), torch.float32),
    ],
)
def test_the_mean_loss_comes_back_as_a_tensor(closure, dtype):
    opt = ZOPrO(parameters((3,)))
    loss = opt.step(closure)
    assert loss.dtype == dtype and loss.dim() == 0 and loss.item() == 2.0
    assert not loss.requires_grad


def test_the_mean_is_over_all_losses():
    values = iter([1.0, 2.0, 4.0, 9.0])
    opt = ZOPrO(parameters((3,)), num_directions=2, lr=0.0, eps=0.5)
    assert opt.step(lambda: next(values)).item() == 4.0
    assert opt.last.losses_plus == (1.0, 4.0) and opt.last.losses_minus == (2.0, 9.0)
    assert opt.last.projected_gradients == (-1.0, -5.0)
    values = iter([1.0, 2.0, 6.0])
    opt = ZOPrO(parameters((3,)), num_directions=2, lr=0.0, eps=0.5, estimator="one_sided")
    assert opt.step(lambda: next(values)).item() == 3.0
    assert opt.last.projected_gradients == (2.0, 10.0)


def test_closures_run_without_a_graph_and_not_in_inference_mode():
    (p,) = parameters((3,))
    seen = []

    def closure():
        loss = (p * 2).sum()
        seen.append((loss.requires_grad, torch.is_inference_mode_enabled()))
        return loss

    ZOPrO([p]).step(closure)
    assert seen == [(False, False)] * 2
    assert torch.is_grad_enabled()
    (p * 2).sum().backward()  # the parameter is still a normal one
    assert p.grad is not None


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), -float("inf"), torch.tensor(torch.nan)]
)
@pytest.mark.parametrize("restore", ["exact", "inplace"])
def test_a_loss_that_is_not_finite_skips_the_step(bad, restore):
    params = parameters((30,))
    before = copies(params)
    opt = ZOPrO(params, lr=1.0, weight_decay=0.5, restore=restore)
    values = iter([1.0, 2.0, 3.0, bad])
    opt.estimate(lambda: next(values))
    opt.estimate(lambda: next(values))
    opt.step()
    assert torch.allclose(params[0], before[0], rtol=0, atol=0 if restore == "exact" else 1e-6)
    assert opt.skipped_steps == 1 and opt.step_count == 1 and opt.last.skipped
    first = opt.last.seed
    opt.step(quadratic(params))
    assert opt.last.seed != first and not opt.last.skipped
    assert opt.skipped_steps == 1 and opt.step_count == 2


def test_an_update_beyond_fp32_is_skipped_too():
    params = parameters((3,))
    before = copies(params)
    values = iter([1e300, 0.0])
    opt = ZOPrO(params)
    opt.step(lambda: next(values))
    assert opt.skipped_steps == 1 and same_bits(params, before)


def test_perturbed_is_the_direction_of_the_step():
    params = parameters((8,), (2, 2))
    before = copies(params)
    opt = ZOPrO(params, eps=0.25, lr=0.0, num_directions=2)
    seen = {}
    for sign, k in [(1, 0), (-1, 0), (2.5, 1)]:
        with opt.perturbed(sign, direction=k):
            seen[sign, k] = copies(params)
    opt.step(lambda: 0.0)
    for (sign, k), stored in seen.items():
        for got, start, n in zip(stored, before, noise_of(opt, params, k)):
            assert torch.allclose(got.double(), start.double() + sign * 0.25 * n, atol=1e-6)


def test_perturbed_restores_after_an_error_and_refuses_a_second():
    params = parameters((8,))
    before = copies(params)
    opt = ZOPrO(params)
    with pytest.raises(KeyError), opt.perturbed(1):
        raise KeyError("inside")
    assert same_bits(params, before)
    inner = [
        lambda: opt.perturbed(1).__enter__(),
        lambda: opt.estimate(lambda: 0.0),
        lambda: opt.step(),
        lambda: opt.step(lambda: 0.0),
        lambda: opt.state_dict(),
        lambda: opt.clear_targets(),
    ]
    with opt.perturbed(1):
        held = copies(params)
        for call in inner:
            with pytest.raises(RuntimeError, match="inside perturbed"):
                call()
            assert same_bits(params, held), "a refusal must not restore what it did not perturb"
    assert same_bits(params, before)


def test_a_closure_cannot_reenter_the_optimizer():
    params = parameters((8,))
    before = copies(params)
    opt = ZOPrO(params)
    with pytest.raises(RuntimeError, match="estimate inside a closure"):
        opt.step(lambda: opt.estimate(lambda: 0.0))
    assert same_bits(params, before)


@pytest.mark.parametrize("restore", ["exact", "inplace"])
def test_a_deferred_restore_ends_at_the_same_weights(restore):
    """restore=False leaves the way back to the update."""
    now, later = parameters((30,)), parameters((30,))
    a, b = ZOPrO(now, lr=1e-2, restore=restore), ZOPrO(later, lr=1e-2, restore=restore)
    for _ in range(3):
        for opt, params in ((a, now), (b, later)):
            opt.estimate(quadratic(params), restore=opt is a)
            opt.estimate(quadratic(params), restore=opt is a)
            opt.step()
    assert torch.allclose(now[0], later[0], rtol=0, atol=0 if restore == "exact" else 1e-6)
    b.estimate(quadratic(later), restore=False)
    held = copies(later)
    b.state_dict()
    assert not same_bits(later, held), "state_dict comes home first"
