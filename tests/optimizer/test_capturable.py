"""capturable=True: a recorded step, replayed, walks the path of eager steps, bit by bit."""

from __future__ import annotations

import random

import pytest
import torch

from zopro import ZOPrO, schedules
from zopro.seeds import DIRECTION, MASK, ROUNDING, derive_seed

from .helpers import copies, parameters, quadratic, same_bits
from .tape import Tape


def test_seeds_of_the_device_are_the_hosts():
    counters = [0, 1, 2, 3, 2**31, 2**32, 2**62, 2**63 - 1]
    counters += [random.Random(0).getrandbits(63) for _ in range(2000)]
    for base in (0, 1, 2**63, 2**64 - 1):
        for purpose in (DIRECTION, ROUNDING):
            ours = derive_seed(base, purpose, torch.tensor(counters)).tolist()
            assert [x & MASK for x in ours] == [derive_seed(base, purpose, c) for c in counters]


@pytest.mark.parametrize("name", schedules.NAMES)
def test_schedules_of_the_device_are_the_hosts(name):
    function = schedules.resolve(name, 40, 0.1)
    for step in range(50):
        ours = schedules.weight_on_device(name, torch.tensor(step), 40, 0.1).item()
        assert ours == pytest.approx(schedules.weight(function, step, 40), rel=1e-14, abs=1e-14)


CASES = {
    "plain": {},
    "exact": {"restore": "exact"},
    "gaussian one-sided": {"distribution": "gaussian", "estimator": "one_sided"},
    "three directions": {"num_directions": 3},
    "targeted": {"targets": "linear"},
    "targeted exponential exact": {"targets": "exponential", "restore": "exact"},
}


def made(case, lr=None):
    """Parameters of two dtypes in two groups, and the optimizer."""
    params = [*parameters((6, 4)), *parameters((5,), dtype=torch.bfloat16)]
    case = {"restore": "inplace", **case}
    schedule = case.pop("targets", None)
    groups = [{"params": params[:1], "eps": 0.01}, {"params": params[1:], "weight_decay": 0.1}]
    lr = torch.tensor(1e-3, dtype=torch.float64) if lr is None else lr
    opt = ZOPrO(groups, lr=lr, eps=0.02, capturable=True, **case)
    if schedule is not None:
        opt.set_targets(copies(params), [copies(params)[0], None], schedule=schedule, steps=9)
    return params, opt


def walk(case, steps, monkeypatch=None, change=None):
    """The parameters after `steps`, the optimizer too; taped from the third on if asked for."""
    params, opt = made(case)
    loss, tape = quadratic(params), None
    if monkeypatch is not None:
        tape = Tape(monkeypatch)
    for step in range(steps):
        if change is not None and step > 2:
            change(opt)
        if tape is None or step < 2:
            opt.step(loss)
        elif step == 2:
            with tape:
                opt.step(loss)
        else:
            tape.replay()
    return params, opt


def decayed(opt):
    for group in opt.param_groups:
        group["lr"].mul_(0.5)


@pytest.mark.parametrize("change", [None, decayed], ids=["one lr", "lr schedule"])
@pytest.mark.parametrize("case", CASES)
def test_replays_are_eager_steps(monkeypatch, case, change):
    eager, a = walk(dict(CASES[case]), 7, change=change)
    taped, b = walk(dict(CASES[case]), 7, monkeypatch, change)
    assert same_bits(eager, taped)
    assert a.step_count == b.step_count == 7 and a.last == b.last
    assert not same_bits(eager, walk(dict(CASES[case]), 6, change=change)[0])
    assert a.state_dict()["zopro"].keys() == b.state_dict()["zopro"].keys()


@pytest.mark.parametrize("case", CASES)
def test_the_path_is_the_one_of_an_optimizer_on_the_host(case):
    """lr as a number of fp64; a schedule's last bit may differ between host and device."""
    params, opt = made(dict(CASES[case]))
    other, host = made(dict(CASES[case]), lr=1e-3)
    host._capturable = False
    for p, o in ((params, opt), (other, host)):
        for _ in range(4):
            o.step(quadratic(p))
    assert same_bits(params, other) and opt.last == host.last


def test_a_skipped_step_counts_and_replays(monkeypatch):
    params, opt = made({})
    value = torch.tensor(1.0)
    for _ in range(2):
        opt.step(lambda: value * quadratic(params)())
    tape = Tape(monkeypatch)
    with tape:
        opt.step(lambda: value * quadratic(params)())
    value.fill_(float("nan"))
    tape.replay()
    tape.replay()
    assert opt.skipped_steps == 2 and opt.last.skipped and opt.step_count == 5
    assert all(p.isfinite().all() for p in params)
    value.fill_(1.0)
    tape.replay()
    assert opt.skipped_steps == 2 and not opt.last.skipped


def test_refusals():
    params, opt = made({})
    with pytest.raises(ValueError, match="schedule is a callable, which runs on the host"):
        opt.set_targets(copies(params), schedule=lambda step, steps: 0.5)
    opt.param_groups[0]["lr"] = torch.zeros((), device="meta")
    with pytest.raises(ValueError, match="capturable=True with lr on meta: put the tensor on cpu"):
        opt.step(quadratic(params))


def test_a_state_goes_on_where_it_was():
    params, opt = made({})
    for _ in range(3):
        opt.step(quadratic(params))
    again, other = made({})
    with torch.no_grad():
        for a, b in zip(again, params):
            a.copy_(b)
    other.load_state_dict(opt.state_dict())
    for p, o in ((params, opt), (again, other)):
        o.step(quadratic(p))
    assert same_bits(params, again) and other.step_count == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES)
def test_a_cuda_graph(case):
    def make():
        params, opt = made(dict(CASES[case]), lr=torch.tensor(1e-3, device="cuda").double())
        moved = [torch.nn.Parameter(p.detach().cuda()) for p in params]
        groups = [
            {**{k: v for k, v in group.items() if k != "params"}, "params": [p]}
            for group, p in zip(opt.param_groups, moved)
        ]
        options = {k: v for k, v in CASES[case].items() if k != "targets"}
        opt = ZOPrO(groups, capturable=True, **{"restore": "inplace", **options})
        if "targets" in CASES[case]:
            opt.set_targets(copies(moved), schedule=CASES[case]["targets"], steps=9)
        return moved, opt

    def quadratic(params):
        return lambda: sum(p.double().square().sum() for p in params)

    (eager, a), (captured, b) = make(), make()
    for _ in range(6):
        a.step(quadratic(eager))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            b.step(quadratic(captured))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        b.step(quadratic(captured))
    for _ in range(4):  # the capture itself runs nothing
        graph.replay()
    assert same_bits([p.cpu() for p in eager], [p.cpu() for p in captured])
    assert b.step_count == 6
