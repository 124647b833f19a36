"""What torch.optim users expect: groups, names, schedulers, hooks, frozen parameters."""

import pytest
import torch
from torch.optim import lr_scheduler

from zopro import ZOPrO

from .helpers import copies, noise_of, parameters, quadratic, same_bits

SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10, cycle_momentum=False),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_move_lr_and_the_update_follows(name):
    (p,) = parameters((20,))
    opt = ZOPrO([p], lr=0.1, eps=1e-3)
    scheduler = SCHEDULERS[name](opt)
    rates = []
    for _ in range(5):
        before = p.detach().double().clone()
        rates.append(opt.param_groups[0]["lr"])
        opt.step(quadratic([p]))
        scheduler.step()
        assert opt.last.lr == (rates[-1],)
        wanted = -rates[-1] * opt.last.projected_gradients[0] * noise_of(opt, [p])[0]
        assert torch.allclose(p.double() - before, wanted, rtol=1e-4, atol=3e-7)
    assert len(set(rates)) > 1


def test_reduce_on_plateau_and_a_tensor_rate():
    (p,) = parameters((20,))
    opt = ZOPrO([p], lr=torch.tensor(0.1))
    scheduler = lr_scheduler.ReduceLROnPlateau(opt, patience=0)
    for _ in range(3):
        opt.step(lambda: 1.0)
        scheduler.step(1.0)
    assert float(opt.param_groups[0]["lr"]) < 0.1


def test_hooks_run_around_a_step():
    (p,) = parameters((4,))
    opt = ZOPrO([p])
    seen = []
    opt.register_step_pre_hook(lambda o, args, kwargs: seen.append(("pre", o.step_count)))
    opt.register_step_post_hook(lambda o, args, kwargs: seen.append(("post", o.last.step)))
    opt.step(quadratic([p]))
    opt.estimate(quadratic([p]))
    opt.step()
    assert seen == [("pre", 0), ("post", 0), ("pre", 1), ("post", 1)]


def test_zero_grad_is_harmless():
    (p,) = parameters((4,))
    p.sum().backward()
    opt = ZOPrO([p])
    opt.estimate(quadratic([p]))
    opt.zero_grad()
    assert p.grad is None
    opt.step()


def test_frozen_parameters_are_left_alone_and_not_counted():
    trainable = parameters((6,), (3,))
    frozen = [
        torch.nn.Parameter(torch.ones(4), requires_grad=False),
        torch.nn.Parameter(torch.ones(4, dtype=torch.uint8), requires_grad=False),  # quantized
        torch.nn.Parameter(torch.ones(4, dtype=torch.float64), requires_grad=False),
    ]
    alone = parameters((6,), (3,))
    a = ZOPrO([frozen[0], trainable[0], *frozen[1:], trainable[1]], lr=1e-2)
    b = ZOPrO(alone, lr=1e-2)
    for _ in range(3):
        a.step(quadratic(trainable))
        b.step(quadratic(alone))
    assert same_bits(trainable, alone)
    assert all((f == 1).all() for f in frozen)


def test_groups_are_perturbed_with_their_own_eps():
    params = parameters((50,), (50,))
    before = copies(params)
    opt = ZOPrO([{"params": params[:1], "eps": 0.5}, {"params": params[1:]}], eps=0.01)
    with opt.perturbed(1):
        rms = [(p - b).square().mean().sqrt().item() for p, b in zip(params, before)]
    assert rms == pytest.approx([0.5, 0.01], rel=1e-4)


def test_an_added_group_appends_to_the_law():
    first, second = parameters((6,), (3,)), parameters((6,), (3,))
    at_once = ZOPrO(first, lr=1e-2)
    later = ZOPrO(second[:1], lr=1e-2)
    later.add_param_group({"params": second[1:]})
    at_once.step(quadratic(first))
    later.step(quadratic(second))
    assert same_bits(first, second)
    later.estimate(quadratic(second))
    with pytest.raises(RuntimeError, match="estimates wait for a step"):
        later.add_param_group({"params": parameters((2,))})


def test_a_refused_group_leaves_the_optimizer_as_it_was():
    params = parameters((6,))
    opt = ZOPrO(params)
    double = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    for group in ({"params": parameters((2,)), "lr": -1.0}, {"params": [double]}):
        with pytest.raises((ValueError, TypeError)):
            opt.add_param_group(group)
        assert len(opt.param_groups) == 1
    opt.step(quadratic(params))


def test_named_parameters_serve():
    model = torch.nn.Linear(3, 2)
    opt = ZOPrO(model.named_parameters(), lr=1e-2)
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    opt.step(lambda: model(torch.ones(1, 3)).sum())
    assert "ZOPrO" in repr(opt)


def test_weight_decay_is_decoupled():
    (p,) = parameters((10,))
    before = p.detach().clone()
    ZOPrO([p], lr=0.1, weight_decay=0.5).step(lambda: 1.0)
    assert torch.allclose(p, before * 0.95, rtol=1e-6)


def test_empty_and_zero_dim_parameters():
    params = [torch.nn.Parameter(torch.ones(0)), torch.nn.Parameter(torch.tensor(2.0))]
    opt = ZOPrO(params, lr=0.1)
    opt.step(lambda: params[1].square())
    assert params[1].item() != 2.0


def test_import_needs_torch_alone():
    import subprocess
    import sys

    code = (
        "import sys; import zopro; "
        "heavy = {'transformers', 'trl', 'peft', 'datasets', 'accelerate'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "sys.modules['trl'] = None; sys.modules['transformers'] = None\n"
        "try: zopro.ZOPrOTrainer\n"
        "except ImportError as e: print(e)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "pip install zopro[train]" in out.stdout
    assert out.stdout.count("\n") == 1


def test_unknown_names_of_the_package_are_attribute_errors():
    import zopro

    with pytest.raises(AttributeError, match="Nonsense"):
        zopro.Nonsense  # noqa: B018
    assert "ZOPrOTrainer" in dir(zopro)


def test_outer_autocast_sees_the_perturbed_weights():
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 1)
    x = torch.randn(32, 64)
    slopes = []
    for enabled in (False, True):
        opt = ZOPrO(model.parameters(), lr=0.0, eps=0.1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            opt.step(lambda: model(x).float().square().mean())
        slopes.append(opt.last.projected_gradients[0])
    assert slopes[1] == pytest.approx(slopes[0], rel=0.1)


def test_options_changed_later_are_checked_before_anything_moves():
    p = torch.nn.Parameter(torch.ones(4))
    opt = ZOPrO([p])
    opt.param_groups[0]["eps"] = 0.0
    with pytest.raises(ValueError, match="eps=0"):
        opt.step(lambda: p.sum())
    assert opt.step_count == 0 and opt.skipped_steps == 0 and (p == 1).all()


def test_perturbed_leaves_the_groups_eps_to_the_step():
    p = torch.nn.Parameter(torch.ones(4))
    opt = ZOPrO([p], lr=0.0, eps=1e-3)
    with opt.perturbed(1):
        pass
    opt.param_groups[0]["eps"] = 0.5
    seen = []
    opt.step(lambda: seen.append(p.detach().clone()) or p.sum())
    assert (seen[0] - 1).abs().tolist() == [0.5] * 4
