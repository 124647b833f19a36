"""A resumed optimizer walks the same path, to the bit, from plain types."""

import copy
import io
import pickle

import pytest
import torch

import zopro_kernels as zk
from zopro import ZOPrO

from .helpers import parameters, quadratic, same_bits

SHAPES = [(6, 3), (5,), (1,)]


def build(dtype, seed=0, frozen=True, **options):
    params = parameters(*SHAPES, dtype=dtype)
    if frozen:
        params.insert(1, torch.nn.Parameter(torch.ones(2), requires_grad=False))
    options = {"lr": 1e-2, "eps": 1e-2, "num_directions": 2, **options}
    return params, ZOPrO([{"params": params[:2]}, {"params": params[2:], "lr": 3e-2}], seed=seed,
                         **options)  # fmt: skip


def trained(params):
    return [p for p in params if p.requires_grad]


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("restore", ["exact", "inplace"])
@pytest.mark.parametrize("targeted", [None, "fp32", "bf16", "int8"])
@pytest.mark.parametrize("pending", [False, True])
def test_a_resumed_run_has_the_same_bits(dtype, restore, targeted, pending):
    params, opt = build(dtype, seed=5, restore=restore)
    loss = quadratic(trained(params))
    opt.step(loss)  # the schedule counts from set_targets, not from the first step
    if targeted:
        u = [None, torch.randn(5), torch.zeros(1)]
        opt.set_targets(
            [torch.randn(s) for s in SHAPES], u, schedule="cosine", steps=9, storage=targeted
        )
    for _ in range(2):
        opt.step(loss)
    opt.step(lambda: float("nan"))
    if pending:
        opt.estimate(loss)
    saved, weights = through_a_file(opt.state_dict()), [p.detach().clone() for p in params]

    # Other seed, options and rates: the checkpoint's hold.
    others, resumed = build(dtype, seed=77, restore=restore, lr=1.0, num_directions=1)
    for p, w in zip(others, weights):
        p.data.copy_(w)
    resumed.load_state_dict(saved)
    assert resumed.skipped_steps == 1 and resumed.step_count == 4
    for o, group in ((opt, params), (resumed, others)):
        if pending:
            o.step()
        for _ in range(3):
            o.step(quadratic(trained(group)))
    assert resumed.last == opt.last
    assert same_bits(params, others)


def test_the_state_holds_plain_types_only():
    def walk(x):
        if isinstance(x, dict):
            for key, value in x.items():
                assert type(key) in (str, int)
                walk(value)
        elif isinstance(x, list):
            for value in x:
                walk(value)
        else:
            assert x is None or type(x) in (int, float, str, bool, torch.Tensor), type(x)

    params, opt = build(torch.float32)
    opt.set_targets([torch.ones(s) for s in SHAPES], steps=3)
    opt.estimate(quadratic(trained(params)))
    state = opt.state_dict()
    walk(state)
    assert state["zopro"]["law"] == zk.LAW


def test_a_callable_schedule_is_set_again_before_loading():
    halved = lambda step, steps: 0.5  # noqa: E731
    params, opt = build(torch.float32)
    opt.set_targets([torch.ones(s) for s in SHAPES], schedule=halved)
    opt.step(quadratic(trained(params)))
    saved = through_a_file(opt.state_dict())
    others, resumed = build(torch.float32)
    with pytest.raises(ValueError, match="schedule was a callable"):
        resumed.load_state_dict(saved)
    assert resumed.step_count == 0
    resumed.set_targets([torch.zeros(s) + 2 for s in SHAPES], schedule=halved)
    for p, q in zip(others, params):
        p.data.copy_(q)
    resumed.load_state_dict(saved)
    opt.step(quadratic(trained(params)))
    resumed.step(quadratic(trained(others)))
    assert same_bits(params, others)


def test_an_index_outlives_freezing():
    """Freezing a tensor leaves the others' noise alone, before and after a resume."""
    params, opt = build(torch.float32, frozen=False)
    opt.step(lambda: 0.0)
    params[0].requires_grad_(False)
    with opt.perturbed(1):
        held = [p.detach().clone() for p in params]
    others, resumed = build(torch.float32, frozen=False)
    others[0].requires_grad_(False)
    resumed.load_state_dict(opt.state_dict())
    with resumed.perturbed(1):
        assert same_bits(held, others)
    fresh, again = build(torch.float32, frozen=False)
    again.step(lambda: 0.0)
    with again.perturbed(1):
        assert same_bits(held[1:], fresh[1:])
        assert not same_bits(held[:1], fresh[:1])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_walk_on(duplicate):
    params, opt = build(torch.float32)
    opt.set_targets([torch.ones(s) for s in SHAPES], steps=5)
    opt.step(quadratic(trained(params)))
    others, twin = duplicate((params, opt))
    opt.step(quadratic(trained(params)))
    twin.step(quadratic(trained(others)))
    assert same_bits(params, others)


def damaged(state, **changes):
    return {**state, "zopro": {**state["zopro"], **changes}}


def cases():
    _, opt = build(torch.float32)
    state = opt.state_dict()
    adam = torch.optim.Adam(parameters((2,))).state_dict()
    incomplete = {**state, "zopro": {k: v for k, v in state["zopro"].items() if k != "passes"}}
    targets = {"params": [0], "prev": [torch.ones(9)], "v": [None], "schedule": "constant",
               "steps": None, "half_life": 0.1, "start": 0}  # fmt: skip
    return {
        "not written by ZOPrO": adam,
        "noise law 99": damaged(state, law=99),
        "has no 'passes'": incomplete,
        "trainable parameter 50": damaged(state, trainable=[50]),
        r"tensor of shape \(9,\)": damaged(state, targets=targets),
        "different number of parameter groups": {**state, "param_groups": []},
    }


@pytest.mark.parametrize("message", cases())
def test_a_foreign_state_is_refused_and_changes_nothing(message):
    params, opt = build(torch.float32, seed=8)
    opt.step(quadratic(trained(params)))
    before = opt.state_dict()
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(cases()[message])
    assert opt.state_dict() == before


def test_a_state_of_other_shapes_is_refused():
    state = ZOPrO([torch.nn.Parameter(torch.ones(3))]).state_dict()
    with pytest.raises(ValueError, match=r"has shape \(3,\) where the optimizer has \(5, 7\)"):
        ZOPrO([torch.nn.Parameter(torch.ones(5, 7))]).load_state_dict(state)
