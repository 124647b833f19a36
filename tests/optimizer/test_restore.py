"""Weights that come back: to the bit where promised, unbiased where not, after errors too."""

import math

import pytest
import torch

from zopro import ZOPrO
from zopro.restore import EXACT_LIMIT_BYTES, choose_policy

from .helpers import copies, noise_of, parameters, quadratic, same_bits

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("estimator", ["two_sided", "one_sided"])
def test_exact_restores_the_bits(dtype, estimator):
    params = parameters((33, 5), (7,), dtype=dtype)
    params[0].data[0, 0] = -0.0
    before = copies(params)
    opt = ZOPrO(params, lr=0.0, eps=0.1, num_directions=3, restore="exact", estimator=estimator)
    moved = []
    for _ in range(5):
        opt.step(lambda: moved.append(not same_bits(params, before)) or quadratic(params)())
        opt.estimate(quadratic(params))
        assert same_bits(params, before)
        opt.step()
        with opt.perturbed(-1, direction=2):
            assert not same_bits(params, before)
    assert any(moved)
    assert same_bits(params, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_update_starts_from_the_exact_weights(dtype):
    """The update of an exact optimizer is one rounding away from theta - lr g z."""
    params = parameters((400,), dtype=dtype)
    before = copies(params)[0].double()
    opt = ZOPrO(params, lr=1e-2, eps=1e-2, restore="exact", rounding="nearest", seed=4)
    opt.step(quadratic(params))
    move = 1e-2 * opt.last.projected_gradients[0] * noise_of(opt, params)[0]
    wanted = before - move
    half_ulp = torch.finfo(dtype).eps / 2 * wanted.abs() * 1.01
    fp32 = 1e-7 * (before.abs() + move.abs())  # the coefficient and the sum, before the store
    assert move.abs().min() > 4 * fp32.max()
    assert ((params[0].double() - wanted).abs() <= half_ulp + fp32).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_inplace_drift_is_unbiased(dtype, distribution):
    """With lr=0, the mean over many restores of the drift is 0 within its standard error."""
    theta = parameters((2000,), dtype=dtype, scale=0.02)[0].detach()
    sums, squares, rounds = torch.zeros(2000).double(), torch.zeros(2000).double(), 60
    for seed in range(rounds):
        p = torch.nn.Parameter(theta.clone())
        opt = ZOPrO([p], lr=0.0, eps=3e-4, restore="inplace", seed=seed, distribution=distribution)
        opt.step(lambda: 0.0)
        drift = p.detach().double() - theta.double()
        sums, squares = sums + drift, squares + drift.square()
    assert squares.sum() > 0, "nothing drifted: the test sees no rounding"
    # Along theta's sign too: a bias towards 0 or away from it would hide in the plain mean.
    for weight in (torch.ones(2000).double(), theta.double().sign()):
        total = (sums * weight).sum().item()
        assert abs(total) < 4 * math.sqrt(squares.sum().item())


def test_inplace_small_updates_reach_bf16_weights_on_average():
    """Updates far below half a unit in the last place add up as intended, which nearest loses."""
    theta = torch.full((4000,), 1.0, dtype=torch.bfloat16)
    moves = {}
    for rounding in ("auto", "nearest"):
        p = torch.nn.Parameter(theta.clone())
        opt = ZOPrO([p], lr=1e-4, eps=1e-2, weight_decay=1.0, rounding=rounding, restore="exact")
        for _ in range(50):
            opt.step(lambda: 0.0)
        moves[rounding] = (p.detach().double() - 1.0).mean().item()
    assert moves["nearest"] == 0.0
    assert moves["auto"] == pytest.approx(-5e-3, rel=0.1)


def test_inplace_fp32_returns_within_rounding():
    params = parameters((500,))
    before = copies(params)
    opt = ZOPrO(params, lr=0.0, eps=1e-3, restore="inplace")
    opt.step(quadratic(params))
    assert torch.allclose(params[0], before[0], rtol=0, atol=1e-6)


def test_auto_is_exact_for_small_and_inplace_for_large():
    small = torch.empty(10)
    assert ZOPrO(parameters((3,))).restore_policy == "exact"
    assert choose_policy("auto", [small]) == "exact"
    large = torch.empty(EXACT_LIMIT_BYTES // 4 + 1, device="meta")
    assert choose_policy("auto", [large]) == "inplace"
    assert choose_policy("exact", [large]) == "exact"
    assert ZOPrO(parameters((3,)), restore="inplace").restore_policy == "inplace"


@pytest.mark.parametrize("restore", ["auto", "exact"])
def test_an_attached_model_that_trains_as_a_whole_goes_by_layers(restore):
    def linear(mib):
        return torch.nn.Linear(1 << 18, mib, bias=False, device="meta")  # fp32

    for frozen, trained, policy in [
        (0, 65, "layerwise"),
        (0, 63, "exact"),  # little is saved
        (200, 90, "exact"),  # an adapter
        (80, 90, "layerwise"),
        (3000, 1025, "layerwise"),  # an adapter above 1 GiB
    ]:
        model = torch.nn.Sequential(linear(trained))
        if frozen:
            model.append(linear(frozen))
        assert choose_policy(restore, [model[0].weight], model) == policy, (frozen, trained)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("restore", ["auto", "inplace"])
def test_auto_in_place_warns_of_its_drift_once(monkeypatch, caplog, dtype, restore):
    monkeypatch.setattr("zopro.restore.EXACT_LIMIT_BYTES", 0)
    params = parameters((50,), dtype=dtype)
    opt = ZOPrO(params, eps=1e-2, restore=restore)
    assert opt.restore_policy == "inplace" and not caplog.records  # a model may come yet
    for _ in range(3):
        opt.step(quadratic(params))
    warned = [r.getMessage() for r in caplog.records if "roundings add up" in r.getMessage()]
    due = restore == "auto" and dtype != torch.float32
    assert len(warned) == due
    assert not due or str(dtype).removeprefix("torch.") in warned[0]


def test_attach_says_what_was_chosen(monkeypatch, caplog):
    monkeypatch.setattr("zopro.restore.WHOLE_LIMIT_BYTES", 0)
    model = torch.nn.Linear(3, 2)
    opt = ZOPrO(model.parameters())
    with caplog.at_level("INFO"):
        opt.attach(model)
    assert "restore='auto' with Linear attached is layerwise" in caplog.text
    assert opt.restore_policy == "layerwise"


@pytest.mark.parametrize("restore", ["exact", "inplace"])
@pytest.mark.parametrize("call", ["step", "estimate"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_closure_that_raises_leaves_theta_and_goes_on(restore, call, error, at):
    params = parameters((50,), (3,))
    before = copies(params)
    opt = ZOPrO(params, eps=1e-2, lr=1.0, restore=restore, num_directions=2)
    calls = []

    def closure():
        calls.append(1)
        if len(calls) == at + 1:
            raise error("from the closure")
        return quadratic(params)()

    with pytest.raises(error, match="from the closure"):
        getattr(opt, call)(closure)
    for p, b in zip(params, before):
        assert torch.allclose(p, b, rtol=0, atol=0 if restore == "exact" else 1e-6)
    with pytest.raises(RuntimeError, match="without an estimate"):
        opt.step()
    opt.step(quadratic(params))  # and the optimizer still serves


def test_exact_keeps_changes_made_between_steps():
    (p,) = parameters((5,))
    opt = ZOPrO([p], lr=0.0, restore="exact")
    opt.step(quadratic([p]))
    p.data.fill_(3.0)
    opt.step(quadratic([p]))
    assert torch.equal(p, torch.full((5,), 3.0))


@pytest.mark.parametrize("restore", ["exact", "inplace"])
def test_a_strided_parameter_is_trained_as_a_dense_one(restore):
    base = parameters((6, 4))[0].detach()
    strided, dense = torch.nn.Parameter(base.t()), torch.nn.Parameter(base.t().contiguous())
    for p in (strided, dense):
        opt = ZOPrO([p], lr=1e-2, restore=restore)
        for _ in range(3):
            opt.step(quadratic([p]))
    assert not strided.is_contiguous()
    assert torch.equal(strided, dense)


def fail_at(monkeypatch, launch):
    """Makes the launch of that number raise, once."""
    from zopro_kernels.dispatch import choose

    backend, launches = choose(torch.device("cpu")), []
    add_noise_ = backend.add_noise_

    def counted(p):
        launches.append(p.tensors[0].dtype)
        if len(launches) == launch:
            raise RuntimeError("the launch failed")
        add_noise_(p)

    monkeypatch.setattr(backend, "add_noise_", counted)
    return launches


@pytest.mark.parametrize("restore", ["exact", "inplace"])
@pytest.mark.parametrize("launch", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("halves", [False, True])
def test_a_launch_that_fails_leaves_nothing_half_done(monkeypatch, restore, launch, halves):
    """Of fp32 and bf16, to theta + eps z, to theta - eps z, and (5, 6) to the updated theta."""
    params = [*parameters((40,)), *parameters((30,), dtype=torch.bfloat16)]
    before = copies(params)
    opt = ZOPrO(params, lr=0.1, eps=2.0**-3, weight_decay=0.5, restore=restore, rounding="nearest")
    launches = fail_at(monkeypatch, launch)
    with pytest.raises(RuntimeError, match="the launch failed"):
        if halves:
            opt.estimate(quadratic(params), restore=False)
            opt.step()
        else:
            opt.step(quadratic(params))
    assert launches[launch - 1] == (torch.float32, torch.bfloat16)[(launch - 1) % 2]
    assert not opt._weights.away
    if restore == "exact":
        assert same_bits(params, before)
    else:  # what is left is rounding: eps and the update are far larger
        for p, b, unit in zip(params, before, (1e-6, 2.0**-6)):
            assert torch.allclose(p, b, rtol=0, atol=unit)
    opt.step(quadratic(params))
    assert not same_bits(params, before)
