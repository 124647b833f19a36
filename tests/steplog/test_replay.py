"""Weights rebuilt from a step log are those that training left, bit for bit."""

import pytest
import torch
from optimizer.helpers import copies, parameters, quadratic, same_bits
from steplog.runs import Run

import zopro_kernels as zk
from zopro import StepLog, ZOPrO, replay
from zopro.digests import digest
from zopro.steplog import Step, read_log

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Each estimator, number of directions and kind of direction with each dtype and restore's kin.
KINDS = (
    (("two_sided", 1, True), ("one_sided", 4, False)),
    (("two_sided", 4, False), ("one_sided", 1, True)),
)
RUNS = [
    (dtype, restore, *kind)
    for d, dtype in enumerate(DTYPES)
    for r, restore in enumerate(("exact", "inplace"))
    for kind in KINDS[(d + r) % 2]
]
NATIVE = "cpu" if zk.backends()["cpu"] == "available" else "reference"


@pytest.mark.parametrize("dtype,restore,estimator,directions,targeted", RUNS, ids=str)
def test_every_step_comes_back(tmp_path, dtype, restore, estimator, directions, targeted):
    run = Run(
        tmp_path, dtype, targeted, restore=restore, estimator=estimator,
        num_directions=directions, backend=NATIVE,
        distribution="gaussian" if directions == 4 else "rademacher",
    ).train()  # fmt: skip
    log = read_log(run.path)
    assert log.cut is None and log.steps == run.steps
    assert run.opt.skipped_steps == sum(isinstance(r, Step) and r.skipped for r in log.records) == 5
    weights = copies(run.base)
    assert replay(log, weights) == digest(run.params)
    assert same_bits(weights, run.params)
    for step in (0, 8, 31, 111):
        weights = copies(run.base)
        replay(log, weights, step)
        assert same_bits(weights, run.weights.get(step, run.base)), step


@pytest.mark.parametrize("storage", ("bf16", "int8"))
def test_targets_in_other_forms_come_back(tmp_path, storage):
    run = Run(tmp_path, torch.bfloat16, storage, backend=NATIVE).train()
    weights = copies(run.base)
    assert replay(read_log(run.path), weights) == digest(run.params)


@pytest.mark.parametrize("directions,targeted", [(1, True), (4, False)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_lookahead_run_comes_back(tmp_path, dtype, directions, targeted):
    """Its passes lead from one step's plan to the next one's; theta is what `settle` stores."""
    run = Run(tmp_path, dtype, targeted, lookahead=True, num_directions=directions, backend=NATIVE)
    run.train()
    log = read_log(run.path)
    assert log.cut is None and log.steps == run.steps
    steps = [r for r in log.records if isinstance(r, Step)]
    assert all(r.next_d is not None for r in steps)
    assert targeted == any(r.next_d != r.d for r in steps)
    weights = copies(run.base)
    assert replay(log, weights) == digest(run.params)
    assert same_bits(weights, run.params)
    short = Run(tmp_path, dtype, targeted, name="short", lookahead=True,
                num_directions=directions, backend=NATIVE)  # fmt: skip
    with StepLog(short.path, short.opt):
        for i in range(9):
            short.step(i)
    weights = copies(run.base)
    replay(log, weights, 9)
    assert same_bits(weights, short.params)


@pytest.mark.parametrize("backend", ("reference", "cpu", "triton"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_backend_gives_the_same_bits(tmp_path, dtype, backend):
    if (state := zk.backends()[backend]) != "available":
        pytest.skip(state)
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    for restore in ("exact", "inplace"):
        run = Run(
            tmp_path, dtype, targeted=True, steps=3, name=restore, restore=restore,
            distribution="gaussian", backend="reference",
        ).train()  # fmt: skip
        weights = [w.to(device) for w in run.base]
        replay(run.path, weights, backend=backend)
        assert same_bits([w.cpu() for w in weights], run.params)


@pytest.mark.parametrize("options", ({"restore": "exact"}, {"restore": "inplace"},
                                     {"lookahead": True}), ids=str)  # fmt: skip
def test_a_stopped_run_goes_on_in_its_log(tmp_path, options, caplog):
    whole = Run(tmp_path, steps=40, name="whole", targeted=True, **options)
    with StepLog(whole.path, whole.opt):
        for i in range(40):
            whole.step(i)
            if i == 13:
                whole.opt.state_dict()  # with lookahead a pass home
    first = Run(tmp_path, steps=40, targeted=True, **options)
    log = StepLog(first.path, first.opt)
    for i in range(14):
        first.step(i)
    state, saved = first.opt.state_dict(), copies(first.params)
    for i in range(14, 21):  # beyond the checkpoint: lost
        first.step(i)
    log._file.close()  # killed

    second = Run(tmp_path, steps=40, **options)
    for p, w in zip(second.params, saved):
        p.data.copy_(w)
    second.opt.load_state_dict(state)
    second.train()
    assert "goes on after step 14" in caplog.text
    assert same_bits(second.params, whole.params)
    weights = copies(first.base)
    replay(second.path, weights)
    assert same_bits(weights, whole.params)
    assert not second.path.with_name("steps.zolog.old").exists()


def test_another_runs_log_is_kept(tmp_path, caplog):
    first = Run(tmp_path, steps=3).train()
    bytes_ = first.path.read_bytes()
    second = Run(tmp_path, steps=3, seed=9).train()
    assert first.path.with_name("steps.zolog.old").read_bytes() == bytes_
    assert "another run" in caplog.text
    weights = copies(second.base)
    replay(second.path, weights)
    assert same_bits(weights, second.params)


@pytest.mark.parametrize("restore", ("exact", "inplace"))
def test_auto_eps(tmp_path, restore):
    params = parameters((40,), (3,), dtype=torch.bfloat16)
    base = copies(params)
    opt = ZOPrO(params, lr=1e-3, eps="auto", restore=restore)
    with StepLog(tmp_path / "log", opt):
        for _ in range(4):
            opt.step(quadratic(params))
    replay(tmp_path / "log", base)
    assert same_bits(base, params)


@pytest.mark.parametrize("restore", ("exact", "inplace"))
def test_a_closure_that_raises(tmp_path, restore):
    params = parameters((40,), dtype=torch.bfloat16)
    base, loss, calls = copies(params), quadratic(params), []

    def fails():
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("once")
        return loss()

    opt = ZOPrO(params, lr=1e-3, eps=1e-2, restore=restore, num_directions=2)
    with StepLog(tmp_path / "log", opt):
        opt.step(loss)
        with pytest.raises(KeyError):
            opt.step(fails)
        opt.step(fails)
        opt.step(loss)
    replay(tmp_path / "log", base)
    assert same_bits(base, params)


@pytest.mark.parametrize("every", (False, True))
def test_what_a_kill_leaves(tmp_path, every):
    """Without close: all steps but the one before the one in hand, or all."""
    run = Run(tmp_path)
    log = StepLog(run.path, run.opt, every_step=every)
    for i in range(6):
        run.opt.step(run.loss)
        assert read_log(run.path).steps == i + every
    log.flush()
    assert read_log(run.path).steps == 6
