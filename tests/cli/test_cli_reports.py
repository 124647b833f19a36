"""report_to: TensorBoard's files lie in the run's folder and hold each phase's values."""

import pytest

from zopro.cli import main


def test_tensorboard(train, tmp_path):
    reason = "tensorboard is not installed: pip install tensorboard"
    pytest.importorskip("tensorboard", reason=reason)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    more = ("--report_to", "tensorboard", "--rewards", "chrf", "--iterations", "2")
    assert main(train(folder, *more)) == 0
    assert not list((folder / "checkpoints").glob("*"))
    files = list((folder / "tensorboard").rglob("events.out.tfevents.*"))
    held = []
    for file in files:
        events = EventAccumulator(str(file)).Reload()
        if "train/reward" in events.Tags()["scalars"]:
            held.append([e.step for e in events.Scalars("train/reward")])
    assert held == [[1, 2], [1, 2]]  # iteration 0 and 1
