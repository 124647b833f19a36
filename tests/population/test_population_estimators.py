"""Estimators against the exact gradient of a small model, and the arithmetic of their cosines."""

import pytest
import torch
from population.models import adapted, data, flat, gradient, losses

import zopro_kernels as zk
from zopro import ZOPrO

LR, B = 0.5, 4


def directions(opt, size):
    """z_k over all trainable numbers: [K, d]."""
    plan = opt._build_plan(opt._step_seed(0), size)
    seed = int(plan.directions[0].seed)
    rows = [
        torch.cat([
            zk.noise(p.numel(), seed, param=t, stream=k, distribution=opt._distribution)
            for p, t in zip(plan.tensors, plan.indices)
        ])
        for k in range(size)
    ]  # fmt: skip
    return torch.stack(rows).double()


def moved(model, opt, size, mapping="all", **options):
    """What one step with one population takes off the weights, over lr: the estimate."""
    x, y = data(B)
    before = flat(model).double()
    with opt.population(size, mapping, model=model, **options) as pop:
        pop.losses(losses(model, pop.copies(x), pop.copies(y)))
    opt.step()
    assert not opt.last.skipped and size in (None, len(opt.last.projected_gradients))
    return (before - flat(model).double()) / LR


def made(eps=1e-3, **options):
    model = adapted().double()
    for p in model.parameters():
        p.data = p.data.float()
    model = model.float()
    return model, ZOPrO(model.parameters(), lr=LR, eps=eps, **options)


def exact(model):
    """Gradients of each response's loss: [B, d]."""
    x, y = data(B)
    return torch.stack([gradient(model, losses(model, x, y)[b]) for b in range(B)]).double()


def close(got, want):
    assert torch.cosine_similarity(got, want, dim=0) > 0.999
    assert abs(got.norm() / want.norm() - 1) < 0.02


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_two_sided_is_the_mean_of_projections(distribution):
    model, opt = made(distribution=distribution)
    z, g = directions(opt, 6), exact(model).mean(0)
    close(moved(model, opt, 6), (z @ g) @ z / 6)


@pytest.mark.parametrize("estimator", ["two_sided", "one_sided"])
def test_per_response_gives_each_its_own_direction(estimator):
    model, opt = made(eps=1e-3 if estimator == "two_sided" else 2e-4)
    z, g = directions(opt, B), exact(model)
    want = (z * (z * g).sum(1, keepdim=True)).mean(0)
    close(moved(model, opt, B, "per_response", estimator=estimator), want)


def test_one_sided_has_one_baseline():
    model, opt = made(eps=2e-4)
    z, g = directions(opt, 6), exact(model).mean(0)
    close(moved(model, opt, 6, estimator="one_sided"), (z @ g) @ z / 6)


def test_scale_std_makes_a_step_of_the_losses_own_unit():
    for factor in (1.0, 100.0):
        model, opt = made(eps=2e-4)
        z, g = directions(opt, 6), exact(model).mean(0)
        slopes = z @ g
        x, y = data(B)
        with opt.population(6, model=model, estimator="one_sided", scale="std") as pop:
            pop.losses(factor * losses(model, pop.copies(x), pop.copies(y)))
        before = flat(model).double()
        opt.step()
        close((before - flat(model)) / LR, (slopes / slopes.std()) @ z / 6)


def test_counts_weigh_the_directions():
    """A partition of the responses into directions of 3 and 1: each response counts once."""
    model, opt = made()
    z, g = directions(opt, 2), exact(model)
    x, y = data(B)
    before = flat(model).double()
    with opt.population(2, [0, 0, 0, 1] * 2, signs=[1] * 4 + [-1] * 4, model=model) as pop:
        pop.losses(losses(model, torch.cat([x, x]), torch.cat([y, y])))
    opt.step()
    want = (g[:3] @ z[0]).sum() * z[0] + (g[3] @ z[1]) * z[1]
    close((before - flat(model)) / LR, want / B)


def test_a_family_gives_the_gradient_in_its_span_exactly():
    model, opt = made(eps=1e-3)
    g = exact(model).mean(0)
    shapes = [p.shape for p in model.parameters() if p.requires_grad]
    spans = torch.randn(3, len(g), generator=torch.Generator().manual_seed(3)).double()
    spans[0] += 2 * g / g.norm()
    cut = [[u.view(s) for u, s in zip(row.float().split([s.numel() for s in shapes]), shapes)]
           for row in spans]  # fmt: skip
    family = opt.family(cut)
    q = torch.linalg.qr(spans.t()).Q
    close(moved(model, opt, None, family=family), q @ (q.t() @ g))


def cosines(mapping, size, trials):
    model, opt = made()
    found = []
    for _ in range(trials):
        g = exact(model).mean(0)
        before = flat(model).clone()
        found.append(torch.cosine_similarity(moved(model, opt, size, mapping), g, dim=0))
        offset = 0
        for p in model.parameters():  # back: the same gradient for all trials
            if p.requires_grad:
                p.data.copy_(before[offset : offset + p.numel()].view(p.shape))
                offset += p.numel()
    return torch.stack(found)


def test_cosines_follow_the_arithmetic():
    """sqrt(K / (K + d)) on all responses, rho / sqrt(d + ...) with a direction a response."""
    d = sum(p.numel() for p in adapted().parameters() if p.requires_grad)
    found = cosines("all", 16, 24)
    assert abs(found.mean() - (16 / (16 + d)) ** 0.5) < 4 * found.std() / 24**0.5
    g = exact(adapted())
    rho = g.sum(0).norm() / g.norm()
    found = cosines("per_response", B, 40)
    assert abs(found.mean() - rho / (d + rho**2) ** 0.5) < 4 * found.std() / 40**0.5
