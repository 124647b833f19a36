"""The log's file among other runs and processes: nothing is lost that was there."""

import os
import shutil
import signal

import pytest
from optimizer.helpers import parameters
from steplog.runs import Run
from trainer.tiny_trainer import trainer

from zopro import StepLog, ZOPrO
from zopro.steplog import read_log


def run_of(folder, steps=5, **options):
    return Run(folder, steps=steps, **options).train()


def test_the_same_script_again_keeps_the_former_steps(tmp_path, caplog):
    path = run_of(tmp_path, 50).path
    first = path.read_bytes()
    run_of(tmp_path, 2, lr=3e-2)
    assert read_log(path).steps == 2
    assert path.with_name("steps.zolog.old").read_bytes() == first
    assert "it is kept as steps.zolog.old" in caplog.text


def test_a_third_run_keeps_both_others(tmp_path):
    logs = []
    for seed in range(4):
        logs.append(run_of(tmp_path, 3, seed=seed).path.read_bytes())
    kept = ("steps.zolog.old", "steps.zolog.old.1", "steps.zolog.old.2", "steps.zolog")
    assert [(tmp_path / name).read_bytes() for name in kept] == logs


def test_a_trainer_that_trains_again_keeps_the_former_steps(tmp_path):
    for steps in (6, 2):
        trainer(tmp_path, max_steps=steps, save_strategy="no").train()
    assert read_log(tmp_path / "steps.zolog").steps == 2
    assert read_log(tmp_path / "steps.zolog.old").steps == 6


def test_a_log_without_steps_is_begun_again(tmp_path):
    for _ in range(2):
        run = Run(tmp_path)
        StepLog(run.path, run.opt).close()
    assert [p.name for p in tmp_path.iterdir()] == ["steps.zolog"]


def test_two_logs_on_one_path(tmp_path):
    run = Run(tmp_path, steps=3)
    other = ZOPrO(parameters((4,)))
    with StepLog(run.path, run.opt):
        run.step(0)
        with pytest.raises(RuntimeError, match=r"steps.zolog' is being written by another StepLog"):
            StepLog(run.path, other)
        assert other._step_log is None
        run.step(1)
    assert read_log(run.path).steps == 2
    StepLog(run.path, other).close()

    held = tmp_path / "held"
    told, tell = os.pipe()
    process = os.fork()
    if process == 0:
        log = StepLog(held, ZOPrO(parameters((3,))))
        os.write(tell, b"x" if log else b"")
        signal.pause()
    try:
        assert os.read(told, 1) == b"x"
        with pytest.raises(RuntimeError, match="is being written by another StepLog: close"):
            StepLog(held, ZOPrO(parameters((3,))))
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    StepLog(held, ZOPrO(parameters((3,)))).close()  # a killed process holds nothing


@pytest.mark.parametrize("gone,words", [("file", "it was removed"), ("folder", "its folder")])
def test_a_file_that_is_gone_is_told(tmp_path, gone, words):
    run = Run(tmp_path / "run", steps=5)
    log = StepLog(run.path, run.opt, every_step=True)
    run.opt.step(run.loss)
    run.path.unlink() if gone == "file" else shutil.rmtree(run.path.parent)
    with pytest.raises(OSError, match=f"steps.zolog' cannot be written: {words}"):
        run.opt.step(run.loss)
    log.close(mark=False)


def test_an_error_in_training_lets_go_of_the_log(tmp_path):
    def fails(*args, **kwargs):
        raise KeyError("once")

    first = trainer(tmp_path, max_steps=2)
    compute, first.compute_loss = first.compute_loss, fails
    with pytest.raises(KeyError):
        first.train()
    trainer(tmp_path, max_steps=2).train()  # while the other one lives
    first.compute_loss = compute
    first.train()
