"""The update against its formula, and its expectation against the closed form on a quadratic."""

import math

import pytest
import torch

from zopro import ZOPrO

from .helpers import copies, noise_of, parameters, quadratic


def one_step_reference(opt, before, loss_at, options, distribution, estimator):
    """theta after one step in float64 from the formulas, each group one tensor with its options."""
    k_count = len(opt.last.projected_gradients)
    update = [torch.zeros_like(p, dtype=torch.float64) for p in before]
    start = [p.double() for p in before]
    for k in range(k_count):
        n = noise_of(opt, before, k, distribution)
        plus = loss_at([p + o["eps"] * z for p, z, o in zip(start, n, options)])
        if estimator == "two_sided":
            minus = loss_at([p - o["eps"] * z for p, z, o in zip(start, n, options)])
            slope = (plus - minus) / 2
        else:
            slope = plus - loss_at(start)
        for j, o in enumerate(options):
            update[j] += slope / o["eps"] * n[j] / k_count
    signs = [1.0 if o["maximize"] else -1.0 for o in options]
    return [
        p * (1 - o["lr"] * o["weight_decay"]) + sign * o["lr"] * u
        for p, u, o, sign in zip(start, update, options, signs)
    ]


@pytest.mark.parametrize("restore", ["exact", "inplace"])
@pytest.mark.parametrize("estimator", ["two_sided", "one_sided"])
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("directions", [1, 3])
def test_a_step_is_the_formula(restore, estimator, distribution, directions):
    params = parameters((5, 4), (7,), (2, 3, 2))
    options = [
        {"lr": 1e-2, "eps": 1e-2, "weight_decay": 0.0, "maximize": False},
        {"lr": 3e-2, "eps": 5e-2, "weight_decay": 0.5, "maximize": False},
        {"lr": 1e-3, "eps": 2e-3, "weight_decay": 0.1, "maximize": True},
    ]
    before = copies(params)
    groups = [{"params": [p], **o} for p, o in zip(params, options)]
    opt = ZOPrO(
        groups, distribution=distribution, estimator=estimator, num_directions=directions,
        restore=restore, seed=3,
    )  # fmt: skip
    opt.step(quadratic(params))
    loss_at = lambda thetas: quadratic(thetas)()  # noqa: E731
    expected = one_step_reference(opt, before, loss_at, options, distribution, estimator)
    for p, old, new in zip(params, before, expected):
        # What is compared is the move; its error is the rounding of theta +- eps z in fp32 (which
        # the loss sees) and of theta in the store.
        move, wanted = p.detach().double() - old.double(), new - old.double()
        assert wanted.norm() > 1e-4
        assert (move - wanted).norm() < 1e-3 * wanted.norm() + 2e-7 * old.norm()


def expected_descent(curvature, theta, lr, directions, distribution):
    """E[L(theta - lr mean_k g_k z_k)] for L = 0.5 theta' A theta, A diagonal, two-sided.

    g = a'z exactly, a = A theta. E[(a'z)^2 z'Az] is |a|^2 tr A for signs and that + 2 a'Aa for
    Gaussian noise; across directions E[g_j g_k z_j'A z_k] = a'Aa.
    """
    a = curvature * theta
    aa, aAa, trace = (a * a).sum(), (a * curvature * a).sum(), curvature.sum()
    own = aa * trace + (2 * aAa if distribution == "gaussian" else 0)
    square = own / directions + (1 - 1 / directions) * aAa
    return 0.5 * (curvature * theta**2).sum() - lr * aa + 0.5 * lr**2 * square


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("directions", [1, 4])
def test_mean_descent_on_a_quadratic_is_the_closed_form(distribution, directions):
    theta = torch.linspace(-1.0, 2.0, 12)
    curvature = torch.linspace(0.5, 2.0, 12, dtype=torch.float64)
    lr, losses = 0.02, []
    for seed in range(600):
        p = torch.nn.Parameter(theta.clone())
        opt = ZOPrO(
            [p], lr=lr, eps=1e-2, seed=seed, distribution=distribution, num_directions=directions
        )
        opt.step(quadratic([p]))
        losses.append(quadratic([p])().item())
    losses = torch.tensor(losses, dtype=torch.float64)
    wanted = expected_descent(curvature, theta.double(), lr, directions, distribution).item()
    error = losses.std().item() / math.sqrt(len(losses))
    descent = quadratic([theta])().item() - wanted
    assert abs(losses.mean().item() - wanted) < 4 * error
    assert error < 0.1 * descent, "too few seeds to tell"


def test_one_sided_shares_one_baseline():
    (p,) = parameters((6,))
    seen = []

    def closure():
        seen.append(p.detach().clone())
        return p.double().square().sum()

    opt = ZOPrO([p], estimator="one_sided", num_directions=4)
    start = p.detach().clone()
    opt.step(closure)
    assert len(seen) == 5
    assert torch.equal(seen[0], start)
    assert len(set(opt.last.losses_minus)) == 1
    assert opt.last.losses_minus[0] == start.double().square().sum().item()


def test_maximize_climbs_as_minimize_of_the_negative_descends():
    up, down = parameters((9,)), parameters((9,))
    climb = ZOPrO(up, lr=1e-2, maximize=True)
    descend = ZOPrO(down, lr=1e-2)
    for _ in range(5):
        climb.step(lambda: -quadratic(up)())
        descend.step(quadratic(down))
    assert torch.equal(up[0], down[0])
    assert quadratic(down)() < quadratic(parameters((9,)))()


def test_signs_of_parameters_and_directions_differ():
    params = parameters((64,), (64,))
    opt = ZOPrO(params, num_directions=2, lr=0.0)
    opt.step(quadratic(params))
    n = noise_of(opt, params, 0) + noise_of(opt, params, 1)
    first = opt.last.seed
    opt.step(quadratic(params))
    assert opt.last.seed != first
    n += noise_of(opt, params, 0)
    for i in range(len(n)):
        for j in range(i):
            assert abs((n[i] * n[j]).mean()) < 0.5
