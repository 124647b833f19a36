"""report_to: TensorBoard's files lie in the run's folder and hold each phase's values."""

import os
import sys

import pytest
from trl import RLOOConfig

from zopro.cli import main
from zopro.cli.progress import Progress
from zopro.iterations import IterationConfig
from zopro.iterations.store import RunFolder
from zopro.iterations.training import TENSORBOARD, Context, arguments, reported


def test_tensorboard(train, tmp_path):
    reason = "tensorboard is not installed: pip install tensorboard"
    pytest.importorskip("tensorboard", reason=reason)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    more = ("--report_to", "tensorboard", "--rewards", "chrf", "--iterations", "2")
    assert main(train(folder, *more)) == 0
    assert not list((folder / "checkpoints").glob("*"))
    files = list((folder / "tensorboard").rglob("events.out.tfevents.*"))
    held = {}
    for file in files:
        events = EventAccumulator(str(file)).Reload()
        if "train/reward" in events.Tags()["scalars"]:
            held[file.parent.name] = [e.step for e in events.Scalars("train/reward")]
    assert held == {"0.policy": [1, 2], "1.policy": [1]}  # its rollout serves both steps


def test_each_phase_is_a_wandb_run_of_the_runs_group(tmp_path, monkeypatch):
    class Wandb:
        run, finished = None, 0

        def finish(self):
            self.run, self.finished = None, self.finished + 1

    wandb, folder = Wandb(), RunFolder(str(tmp_path / "mine"), {}, True)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    made = Context(IterationConfig(str(tmp_path / "mine")), folder, None, None, None)
    for phase in ("0.policy", "1.policy"):
        with reported(made, phase):
            args = arguments(RLOOConfig, made, phase, {"use_cpu": True}, {})
            assert args.run_name == f"mine/{phase}" and os.environ["WANDB_RUN_GROUP"] == "mine"
            assert os.environ[TENSORBOARD] == str(tmp_path / "mine" / "tensorboard" / phase)
            wandb.run = object()  # as its callback begins one
    assert wandb.finished == 2 and TENSORBOARD not in os.environ
    monkeypatch.delenv("WANDB_RUN_GROUP")
    wandb.run = object()  # the user's own, begun before
    with reported(made, "2.policy"):
        pass
    assert wandb.finished == 2
    monkeypatch.delenv("WANDB_RUN_GROUP")


def test_slow_rates_are_not_rounded_to_0(monkeypatch):
    bar = Progress()
    bar._began, bar._tokens, bar._first = 0.0, None, 0
    monkeypatch.setattr("zopro.cli.progress.time.monotonic", lambda: 100.0)
    assert bar._rate(25) == {"tok/s": "0.25"}
    monkeypatch.setattr("zopro.cli.progress.time.monotonic", lambda: 101.0)
    assert bar._rate(12370) == {"tok/s": "12345"}
