"""What a step costs in the log, as docs/replay.md says it: under 64 bytes a direction, always."""

import math

import pytest
import torch
from optimizer.helpers import copies, parameters, quadratic, same_bits

from zopro import CapturedStepLog, StepLog, ZOPrO, replay, schedules
from zopro.steplog import layout, read_log
from zopro.steplog.coding import Coder

STEPS = 60


def cosine(i):
    return 0.5 * (1 + math.cos(math.pi * i / 200))


def cosine_recursive(opt, i):
    """torch's CosineAnnealingLR: each lr from the one before, so that their ratios drift."""
    for g, group in enumerate(opt.param_groups):
        factor = (1 + math.cos(math.pi * (i + 1) / 200)) / (1 + math.cos(math.pi * i / 200))
        group["lr"] = factor * (group["lr"] - 1e-5 * g) + 1e-5 * g


def each(name, value):
    """A schedule: value(g, i) for group g at step i."""

    def change(opt, i):
        for g, group in enumerate(opt.param_groups):
            group[name] = value(g, i)

    return change


def trained(path, groups=1, change=None, aim=None, step=None, log=StepLog, begin=0, **options):
    """Trains and returns (parameters at the start, at the end, bytes of records after step 9)."""
    params = parameters(*[(4,)] * groups)
    opt = ZOPrO([{"params": [p]} for p in params], **{"lr": 1e-3, "eps": 1e-2, **options})
    opt._step_count, opt._passes = begin, 3 * begin
    for g, group in enumerate(opt.param_groups):
        if not options.get("capturable"):
            group["lr"] = 1e-3 * (1 + g / 7)
    if aim is not None:
        opt.set_targets([p.detach().clone() + 1 for p in params], schedule=aim, steps=200)
    start, loss, size = copies(params), quadratic(params), []
    with log(path, opt) as written:
        for i in range(STEPS):
            if change is not None:
                change(opt, i)
            (step or opt.step)(*[loss] if step is None else [opt, loss, i])
            if i in (9, STEPS - 1):
                written.flush()
                size.append(path.stat().st_size)
    return start, params, size[1] - size[0]


def sometimes_skipped(opt, loss, i):
    opt.step((lambda: float("nan")) if i % 2 else loss)


def apart(opt, loss, i):
    for _ in range(1 + i % 3):
        opt.estimate(loss, restore=True)
    opt.step()


def looked_at(opt, loss, i):
    with opt.perturbed(0.3):
        pass
    opt.step(loss)


lr = each("lr", lambda g, i: 1e-3 * (1 + g / 7) * cosine(i))
CASES = {
    "one direction": dict(change=lr),
    "four directions": dict(change=lr, num_directions=4),
    "nothing changes": dict(),
    "groups that share their lr": dict(groups=4, change=each("lr", lambda g, i: 1e-3 * cosine(i))),
    **{f"{n} groups, each its lr": dict(groups=n, change=lr) for n in (2, 3, 8, 48)},
    "8 groups by torch's scheduler": dict(groups=8, change=cosine_recursive),
    "8 groups, two schedules": dict(groups=8, change=each(
        "lr", lambda g, i: 1e-3 * (cosine(i) if g % 4 else 1 / (1 + i)))),
    "after 2^32 steps": dict(groups=2, change=lr, begin=2**32 + 1),
    **{f"targets, {name}": dict(groups=2, change=lr, aim=name) for name in schedules.NAMES},
    "targets, a callable": dict(aim=lambda step, steps: math.sin(step) ** 2),
    **{f"lookahead, {name}": dict(groups=2, change=lr, aim=name, lookahead=True)
       for name in schedules.NAMES},
    "a schedule of weight_decay": dict(groups=3, change=each(
        "weight_decay", lambda g, i: 0.1 * (1 + g) * cosine(i))),
    "a schedule of eps": dict(groups=3, change=each(
        "eps", lambda g, i: 0.01 * (1 + g) * cosine(i))),
    "a schedule of eps with lookahead": dict(
        change=each("eps", lambda g, i: 0.01 * cosine(i)), lookahead=True),
    "skipped steps": dict(change=lr, step=sometimes_skipped),
    "estimates apart": dict(change=lr, step=apart, restore="inplace"),
    "passes between": dict(groups=2, change=lr, step=looked_at, restore="inplace"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_takes_under_64_bytes_a_direction(tmp_path, case):
    start, end, size = trained(tmp_path / "log", **case)
    taken = size / (STEPS - 10)
    print(f"{taken:.1f} bytes a step")
    assert taken / case.get("num_directions", 1) < 64
    replay(tmp_path / "log", start)
    assert same_bits(start, end)


def test_a_captured_step_too(tmp_path):
    def change(opt, i):
        opt.param_groups[0]["lr"].mul_(0.99)

    start, end, size = trained(
        tmp_path / "log", 2, change, "cosine", log=CapturedStepLog, capturable=True,
        lr=torch.tensor(1e-3, dtype=torch.float64), restore="inplace",
    )  # fmt: skip
    print(f"{size / (STEPS - 10):.1f} bytes a step")
    assert size / (STEPS - 10) < 64
    replay(tmp_path / "log", start)
    assert same_bits(start, end)


def test_most_steps_take_a_third_of_that(tmp_path):
    *_, size = trained(tmp_path / "log", groups=2, change=lr)
    assert size / (STEPS - 10) < 24


def test_numbers_come_back_however_far_from_what_is_implied(tmp_path):
    odd = [0.0, -0.0, 5e-324, 1e-3, -1e-3, 1.7e308, 2.0**-1022, 1 / 3]
    trained(tmp_path / "log", groups=3)
    log = read_log(tmp_path / "log")
    known = next(r for r in log.records if isinstance(r, layout.Step))

    coder, data, told = Coder(log.head, 0), b"", []
    reader = Coder(log.head, 0)
    for i in range(64):
        pick = [odd[(i * k + i // 8) % 8] for k in (1, 3, 5, 7, 2)]
        if i % 3 == 0:
            r = layout.Groups(tuple(pick[:3]), tuple(pick[2:]), (True, False, i % 2 == 0))
        else:
            r = layout.Step(len([t for t in told if isinstance(t, layout.Step)]), 2**i, 1 + i,
                            tuple(pick[:3]) if i % 2 else tuple(pick[:1]), pick[3], known.slopes,
                            next_d=pick[4] if i % 4 else None)  # fmt: skip
        data = coder.encode(r)
        found, end = reader.decode(data, 0)
        assert end == len(data) and repr(found) == repr(r)
        coder.take(r, layout.last_crc(data))
        reader.take(found, layout.last_crc(data))
        told.append(r)
