"""Steps that are replayed without Python are in the log, which replays to their weights."""

import pytest
import torch
from optimizer.helpers import copies, quadratic, same_bits
from optimizer.tape import Tape
from optimizer.test_capturable import CASES, made

from zopro import CapturedStepLog, StepLog, ZOPrO, replay
from zopro.steplog import Step, read_log


class Captured:
    """An optimizer after two steps and a captured one, and its log. `weights[n]`: after n steps."""

    def __init__(self, path, monkeypatch, case=None, lr=None, **options):
        self.path, self.value = path, torch.tensor(1.0)
        self.params, self.opt = made({} if case is None else dict(CASES[case]), lr)
        self.weights = [copies(self.params)]
        self.log = CapturedStepLog(path, self.opt, **options)
        loss = quadratic(self.params)
        self.step = lambda: self.opt.step(lambda: self.value * loss())
        self.tape = Tape(monkeypatch)
        for _ in range(2):
            self.step()
            self.weights.append(copies(self.params))
        with self.tape:
            self.step()
        self.weights.append(copies(self.params))

    def replay(self, times=1):
        for _ in range(times):
            self.tape.replay()
            self.weights.append(copies(self.params))

    def check(self, *steps):
        for step in steps:
            params = copies(self.weights[0])
            replay(self.path, params, until=step)
            assert same_bits(params, self.weights[step]), f"the weights after step {step} differ"


@pytest.mark.parametrize("case", CASES)
def test_a_log_of_replays_has_the_weights_of_every_step(tmp_path, monkeypatch, case):
    run = Captured(tmp_path / "steps.zolog", monkeypatch, case)
    run.replay(2)
    run.opt.param_groups[0]["lr"].mul_(0.5)
    run.log.flush()
    run.value.fill_(float("nan"))
    run.replay()
    run.value.fill_(1.0)
    run.replay(2)
    run.opt.state_dict()
    run.replay()
    run.log.close()
    steps = [r for r in read_log(run.path).records if isinstance(r, Step)]
    assert [s.step for s in steps] == list(range(9)) and [s.skipped for s in steps].index(True) == 5
    assert len({s.lr for s in steps}) == 2
    run.check(*range(10))


def test_its_records_are_those_of_a_log_on_the_host(tmp_path, monkeypatch):
    for case in ("plain", "targeted", "three directions"):
        run = Captured(tmp_path / f"{case}.a", monkeypatch, case)
        run.replay(3)
        run.log.close()
        params, opt = made(dict(CASES[case]), lr=1e-3)
        opt._capturable = False
        with StepLog(tmp_path / f"{case}.b", opt):
            for _ in range(6):
                opt.step(quadratic(params))
        ours, theirs = (read_log(tmp_path / f"{case}.{x}").records for x in "ab")
        assert ours == theirs


def test_rows_come_around_and_never_go_unnoticed(tmp_path, monkeypatch):
    run = Captured(tmp_path / "steps.zolog", monkeypatch, rows=4)
    for _ in range(3):
        run.replay()
        run.log.flush()
        run.replay(2)
    run.check(6)
    run.replay(3)
    with pytest.raises(RuntimeError, match=r"at step 15 where its step log is at 10 and keeps 4"):
        run.log.flush()


def test_another_targets_after_the_first_step_are_told(tmp_path):
    params, opt = made(dict(CASES["targeted"]))
    start = copies(params)
    with CapturedStepLog(tmp_path / "steps.zolog", opt):
        for step in range(6):
            if step == 3:
                opt.set_targets([torch.ones_like(p) for p in params], schedule="cosine", steps=5)
            if step == 5:
                opt.clear_targets()
            opt.step(quadratic(params))
    replay(tmp_path / "steps.zolog", start)
    assert same_bits(start, params)


def test_passes_in_place_that_are_no_steps_are_refused(tmp_path, monkeypatch):
    run = Captured(tmp_path / "a", monkeypatch)
    with run.opt.perturbed(1.0):
        pass
    run.replay()
    with pytest.raises(
        RuntimeError, match="2 passes in place before the end of step 3 are no step"
    ):
        run.log.flush()
    exact = Captured(tmp_path / "b", monkeypatch, "exact")
    with exact.opt.perturbed(1.0):
        pass
    exact.replay()
    exact.log.close()
    exact.check(4)
    params, opt = made({})
    opt.param_groups[0]["eps"] = "auto"
    log = CapturedStepLog(tmp_path / "c", opt)
    with pytest.raises(RuntimeError, match="a step in place took passes that its record does not"):
        opt.step(quadratic(params))
    with pytest.raises(RuntimeError, match="the step log ends at step 0: begin another log"):
        log.close()


def test_each_kind_of_optimizer_has_its_log(tmp_path):
    params, opt = made({})
    with pytest.raises(ValueError, match=r"capturable=True with StepLog: .* CapturedStepLog reads"):
        StepLog(tmp_path / "a", opt)
    with pytest.raises(ValueError, match="capturable=False with CapturedStepLog"):
        CapturedStepLog(tmp_path / "a", ZOPrO(params))
    with pytest.raises(ValueError, match="rows=0 is out of range"):
        CapturedStepLog(tmp_path / "a", opt, rows=0)
    assert not list(tmp_path.iterdir())
