"""What a step costs in the log, as docs/replay.md says it."""

import pytest
from optimizer.helpers import parameters, quadratic

from zopro import StepLog, ZOPrO


def size(folder, steps, groups=1, own=False, targeted=False, decayed=False, **options):
    """Bytes of a log of `steps` steps whose lr changes at each."""
    params = parameters(*[(4,)] * groups)
    opt = ZOPrO([{"params": [p]} for p in params], **options)
    if targeted:
        opt.set_targets([p.detach().clone() + 1 for p in params], steps=200)
    path = folder / str(steps)
    with StepLog(path, opt):
        for i in range(steps):
            for g, group in enumerate(opt.param_groups):
                group["lr"] = 1e-3 / (1 + i + own * g)
                if decayed:
                    group["weight_decay"] = 0.1 / (1 + i)
            opt.step(quadratic(params))
    return path.stat().st_size


SHORT = {"groups": 2}
CASES = [
    ("a step", {}, 0),
    ("groups that share their lr", SHORT, 0),
    ("two groups, each its lr", {**SHORT, "own": True}, 8),
    ("three groups, each its lr", {"groups": 3, "own": True}, 16),
    ("targets", {"targeted": True}, 0),
    ("targets and lookahead", {"targeted": True, "lookahead": True}, 8),
]


def of_a_step(folder, **options):
    folder.mkdir()
    return (size(folder, 110, **options) - size(folder, 10, **options)) / 100


@pytest.mark.parametrize("options,more", [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_bytes_of_a_step(tmp_path, options, more):
    plain = of_a_step(tmp_path / "plain")
    assert plain < 64
    assert of_a_step(tmp_path / "case", **options) == plain + more


def test_a_schedule_of_weight_decay_costs_more_than_the_steps(tmp_path):
    plain = of_a_step(tmp_path / "plain")
    assert plain < of_a_step(tmp_path / "case", decayed=True) - plain < 2 * plain
