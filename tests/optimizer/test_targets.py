"""Targeted directions against the formulas of arXiv 2503.03460, evaluated in float64."""

import math

import pytest
import torch

from zopro import ZOPrO

from .helpers import copies, noise_of, parameters, quadratic

SHAPES = [(8, 4), (16,), (1,), (3, 5, 2)]


def updates(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def formula(n, prev, u, d, group_of):
    """z of every tensor in float64; u may be None; scaled to rms 1 over each group."""
    out = []
    for noise, w, reward in zip(n, prev, u):
        w, p = w.double(), noise
        if reward is not None and reward.norm() > 0:
            v = reward.double() / reward.double().norm()
            p = noise - (v * noise).sum() * v
        one_element = p.norm() < 1e-6  # then p is 0 but for rounding
        p = 0 * p if one_element else p * w.norm() / (p.norm() + 1e-8)
        out.append(d * w + math.sqrt(1 - d * d) * p)
    for g in set(group_of):
        members = [t for t, group in enumerate(group_of) if group == g]
        length = math.sqrt(sum(prev[t].double().square().sum().item() for t in members))
        count = sum(prev[t].numel() for t in members)
        for t in members:
            out[t] = out[t] * math.sqrt(count) / length
    return out


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("restore", ["exact", "inplace"])
@pytest.mark.parametrize("d", [0.999, 0.5, 0.0, 1.0])
@pytest.mark.parametrize("reward", ["all", "some", "none"])
def test_a_targeted_step_is_the_formulas(distribution, restore, d, reward):
    # theta = 0, so that theta +- eps z is stored with nothing but fp32's relative rounding.
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    prev, u = updates(1, 1e-3), updates(2, 5.0)
    if reward == "some":
        u = [u[0], None, torch.zeros(1), u[3]]
    groups, group_of = [{"params": params[:2]}, {"params": params[2:]}], [0, 0, 1, 1]
    opt = ZOPrO(
        groups, lr=0.1, eps=0.5, distribution=distribution, restore=restore, seed=11,
        num_directions=2,
    )  # fmt: skip
    opt.set_targets(prev, None if reward == "none" else u, schedule=lambda step, steps: d)
    slopes = [w.double() for w in updates(3, 1.0)]
    stored = []
    for k in range(2):
        with opt.perturbed(+1, direction=k):
            stored.append(copies(params))
    rounding = 0.0 if restore == "exact" else 1e-6
    assert all((p.abs() <= rounding).all() for p in params)
    for p in params:
        p.data.zero_()
    opt.step(lambda: sum((s * p.double()).sum() for s, p in zip(slopes, params)))

    used = [None] * 4 if reward == "none" else u
    total = [torch.zeros_like(s) for s in slopes]
    for k in range(2):
        z = formula(noise_of(opt, params, k, distribution), prev, used, d, group_of)
        for got, wanted in zip(stored[k], z):
            assert (got.double() - 0.5 * wanted).norm() <= 1e-6 * 0.5 * wanted.norm()
        g = sum((s * x).sum() for s, x in zip(slopes, z))
        assert opt.last.projected_gradients[k] == pytest.approx(g.item(), rel=2e-6)
        total = [a + g * x / 2 for a, x in zip(total, z)]
    wanted = torch.cat([-0.1 * x.flatten() for x in total])
    got = torch.cat([p.detach().double().flatten() for p in params])
    assert wanted.norm() > 0
    # In place, the update rides on theta - eps z (rms 0.5) and keeps that store's rounding.
    floor = 0.0 if restore == "exact" else 1e-7 * 0.5 * len(wanted) ** 0.5
    assert (got - wanted).norm() < 1e-6 * wanted.norm() + floor


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_rms_of_a_targeted_direction_is_one_in_expectation(distribution):
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    opt = ZOPrO(params, lr=0.0, eps=1.0, distribution=distribution)
    opt.set_targets(updates(1, 1e-4), updates(2, 1.0), schedule=lambda step, steps: 0.6)
    squares = []
    for _ in range(300):
        with opt.perturbed(1):
            flat = torch.cat([p.detach().flatten() for p in params])
            squares.append(flat.double().square().mean())
        opt.step(lambda: 0.0)
    squares = torch.stack(squares)
    assert abs(squares.mean() - 1) < 4 * squares.std() / math.sqrt(300) + 1e-6
    assert squares.std() > 0


def test_tensors_without_a_previous_update_stay():
    params = parameters(*SHAPES)
    prev = updates(1, 1.0)
    prev[1].zero_()
    before = copies(params)
    opt = ZOPrO(params, lr=1e-2)
    opt.set_targets(prev, updates(2, 1.0), steps=10)
    for _ in range(3):
        opt.step(quadratic(params))
    assert torch.equal(params[1], before[1])
    assert all(torch.isfinite(p).all() for p in params)
    assert not torch.equal(params[0], before[0])


def test_parallel_noise_leaves_no_rubbish():
    """v along n, p rounds to 0 of n's size: the direction is d prev, not amplified rounding."""
    (p,) = [torch.nn.Parameter(torch.zeros(2))]
    opt = ZOPrO([p], lr=0.0, eps=1.0)
    opt.step(lambda: 0.0)
    for sign in (1.0, -1.0):
        opt.set_targets([torch.tensor([3.0, 4.0])], [torch.tensor([0.7, sign * 0.7])],
                        schedule=lambda step, steps: 0.6)  # fmt: skip
        with opt.perturbed(1):
            z = p.detach().clone()
        n = noise_of(opt, [p], seed=opt._current_plan().directions[0].seed)[0]
        if n[0] * n[1] == sign:
            wanted = 0.6 * torch.tensor([3.0, 4.0]) * math.sqrt(2) / 5
            assert torch.allclose(z, wanted, rtol=1e-6)
            return
    pytest.fail("neither sign was parallel to the noise")


def test_names_and_order_give_the_same_path():
    def model():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))

    by_name, in_order = model(), model()
    prev = {n: torch.randn_like(p) for n, p in by_name.named_parameters()}
    u = {"0.weight": torch.randn(4, 3)}  # the others have no reward update
    first = ZOPrO(by_name.named_parameters(), lr=1e-2)
    first.set_targets({**prev, "of another model": torch.ones(1)}, u, steps=5)
    second = ZOPrO(in_order.parameters(), lr=1e-2)
    second.set_targets(prev.values(), [u["0.weight"], None, None, None], steps=5)
    x = torch.randn(8, 3)
    for _ in range(7):
        first.step(lambda: by_name(x).square().mean())
        second.step(lambda: in_order(x).square().mean())
    for a, b in zip(by_name.parameters(), in_order.parameters()):
        assert torch.equal(a, b)


def test_targets_are_copies_and_can_be_cleared():
    plain, cleared = parameters((6,)), parameters((6,))
    prev = [torch.ones(6)]
    a, b = ZOPrO(plain, lr=1e-2), ZOPrO(cleared, lr=1e-2)
    b.set_targets(prev, steps=3)
    prev[0].fill_(float("nan"))
    with b.perturbed(1):
        assert torch.isfinite(cleared[0]).all()
    b.clear_targets()
    a.step(quadratic(plain))
    b.step(quadratic(cleared))
    assert torch.equal(plain[0], cleared[0])


def test_bf16_parameters_take_fp32_targets():
    params = parameters((40,), dtype=torch.bfloat16, scale=0.0)
    opt = ZOPrO(params, lr=0.0, eps=1.0)
    opt.set_targets([torch.full((40,), 1e-3, dtype=torch.bfloat16)], schedule=lambda s, n: 1.0)
    with opt.perturbed(1):
        assert torch.equal(params[0], torch.ones(40, dtype=torch.bfloat16))


def test_a_true_direction_descends_faster_than_chance():
    """What targets are for: along the previous update the projected gradient is larger."""
    gains = {}
    for targeted in (False, True):
        params = parameters((200,))
        opt = ZOPrO(params, lr=1e-3, seed=5)
        if targeted:
            opt.set_targets([-params[0].detach()], schedule="constant")
        start = quadratic(params)().item()
        for _ in range(5):
            opt.step(quadratic(params))
        gains[targeted] = start - quadratic(params)().item()
    assert gains[True] > 5 * abs(gains[False])
