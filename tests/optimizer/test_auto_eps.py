"""eps="auto": clear of the noise, not far above it, in few calls, and a slope one can trust."""

import copy

import pytest
import torch

from zopro import ZOPrO
from zopro.auto_eps import CLEAR, DIRECTIONS, POINTS, RUNGS, find_eps

from .helpers import copies, noise_of, parameters, quadratic, same_bits


def noisy(slope, sigma, generator):
    """A loss with slopes of that size along four directions, some curvature, uniform noise."""
    slopes = slope * torch.tensor([1.0, -0.7, 0.4, 1.3], dtype=torch.float64)

    def loss_at(k, x):
        noise = (torch.rand((), generator=generator).item() - 0.5) * sigma * 12**0.5
        return 3.0 + slopes[k].item() * x + x * x + 0.1 * x**3 + noise

    return loss_at


@pytest.mark.parametrize("slope", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("sigma", [1e-9, 1e-6, 3e-4])
@pytest.mark.parametrize("two_sided", [True, False])
def test_the_found_eps_is_near_the_smallest_clear_one(slope, sigma, two_sided):
    rms_slope = slope * ((1 + 0.49 + 0.16 + 1.69) / 4) ** 0.5
    smallest = CLEAR * 2**0.5 * sigma / (rms_slope * (2 if two_sided else 1))
    found = [
        find_eps(noisy(slope, sigma, torch.Generator().manual_seed(seed)), two_sided)
        for seed in range(10)
    ]
    # Four noise samples know the noise to a factor of about two, the search stops at four.
    assert all(smallest / 4 < f.eps < smallest * 12 for f in found), [f.eps for f in found]
    assert sum(f.eps > smallest / 2 for f in found) >= 8
    assert all(f.signal >= CLEAR * f.noise for f in found)
    assert all(f.calls <= RUNGS * DIRECTIONS * len(POINTS) for f in found)
    assert sum(f.calls for f in found) / 10 <= 112


def network(dtype):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    x, y = torch.randn(64, 16), torch.randint(0, 4, (64,))
    model = model.to(dtype)
    x = x.to(dtype)

    def loss(m=model):
        return torch.nn.functional.cross_entropy(m(x.to(m[0].weight.dtype)).float(), y)

    return model, loss


def slope_error(dtype, eps, restore, seeds=24):
    """Relative error of measured slopes against float64 autograd, rms over seeded directions."""
    model, loss = network(dtype)
    exact = copy.deepcopy(model).double()
    loss(exact).backward()
    gradient = [p.grad for p in exact.parameters()]
    theta = copies(model.parameters())
    errors = wanted = 0.0
    for seed in range(seeds):
        opt = ZOPrO(model.parameters(), lr=0.0, eps=eps, seed=seed, restore=restore)
        opt.step(loss)
        true = sum((g * n).sum() for g, n in zip(gradient, noise_of(opt, theta))).item()
        errors += (opt.last.projected_gradients[0] - true) ** 2
        wanted += true**2
        for p, t in zip(model.parameters(), theta):
            p.data.copy_(t)
    return (errors / wanted) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("restore", ["exact", "inplace"])
def test_slopes_at_the_found_eps_are_slopes(dtype, restore):
    """And at a hundredth of it they are rounding: the defect that "auto" is there to prevent."""
    model, loss = network(dtype)
    theta = copies(model.parameters())
    opt = ZOPrO(model.parameters(), lr=0.0, eps="auto", restore=restore)
    opt.step(loss)
    eps = opt.param_groups[0]["eps"]
    assert type(eps) is float and opt.last.eps == (eps,)
    if restore == "exact":
        assert same_bits(model.parameters(), theta)
    assert slope_error(dtype, eps, restore) < 0.35
    assert slope_error(dtype, eps / 100, restore) > 0.5


def test_auto_is_found_once_for_all_groups_that_ask_and_is_saved():
    params = parameters((20,), (20,), (20,))
    calls = []
    opt = ZOPrO([{"params": [params[0]]}, {"params": [params[1]], "eps": 0.25},
                 {"params": [params[2]]}], eps="auto", lr=1e-3)  # fmt: skip
    held = params[1].detach().clone()

    def closure():
        calls.append(torch.equal(params[1], held))
        return quadratic(params)()

    opt.estimate(closure)
    assert all(calls[:-2]) and not any(calls[-2:]), "a group with its own eps has no part in it"
    first, given, third = (group["eps"] for group in opt.param_groups)
    assert given == 0.25 and first == third and isinstance(first, float)
    before = len(calls)
    opt.step()
    opt.step(closure)
    assert len(calls) == before + 2
    assert [g["eps"] for g in opt.state_dict()["param_groups"]] == [first, 0.25, first]


def test_auto_leaves_the_path_of_directions_alone():
    seeds = []
    for eps in ("auto", 1e-2):
        params = parameters((20,))
        opt = ZOPrO(params, eps=eps)
        opt.step(quadratic(params))
        seeds.append(opt.last.seed)
    assert seeds[0] == seeds[1]


def test_auto_along_a_tiny_previous_update():
    """eps is relative to the direction's own rms, so a previous update of 1e-6 changes nothing."""
    found = []
    for scale in (1.0, 1e-6):
        params = parameters((50,))
        opt = ZOPrO(params, eps="auto")
        opt.set_targets([scale * params[0].detach()], schedule="constant")
        opt.step(quadratic(params))
        found.append(opt.param_groups[0]["eps"])
    assert found[0] == pytest.approx(found[1], rel=3)


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_loss_without_a_slope_is_refused(value):
    params = parameters((20,))
    before = copies(params)
    opt, calls = ZOPrO(params, eps="auto"), []
    with pytest.raises(RuntimeError, match="eps='auto' found no perturbation"):
        opt.step(lambda: calls.append(1) or value)
    assert len(calls) == (16 if value != value else 160), "beyond NaN there is nothing to look for"
    assert same_bits(params, before)
    assert opt.param_groups[0]["eps"] == "auto"
    opt.step(quadratic(params))


def test_a_closure_that_raises_during_the_search_leaves_theta():
    params = parameters((20,))
    before = copies(params)
    opt = ZOPrO(params, eps="auto")
    calls = []

    def closure():
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return quadratic(params)()

    with pytest.raises(KeyboardInterrupt):
        opt.estimate(closure)
    assert same_bits(params, before)
