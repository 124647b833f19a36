"""Chunks of an iteration: one learning rate, one budget of steps, one optimizer state."""

import json

import pytest
from iterations.tiny_run import TRAINER, data, run

from zopro.iterations.chunked import shares
from zopro.trainer import trees


def rates(folder, phase):
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r["learning_rate"] for r in rows if r["phase"].startswith(phase) and "loss" in r]


@pytest.mark.parametrize("budget", [{"max_steps": 4}, {"max_steps": -1, "num_train_epochs": 1}])
def test_the_learning_rate_runs_over_the_iteration(budget, tmp_path):
    epochs = budget["max_steps"] < 0
    options = {"trainer": {**TRAINER, **budget}, "iterations": 1 if epochs else 2}
    small = {"num_generations": 2, "beta": 0.05}
    if epochs:
        small["per_device_train_batch_size"] = 8
    run(tmp_path / "whole", data(16), policy=small, **options)
    run(tmp_path / "parts", data(16), policy=small, chunk=0.5, **options)
    for phase in ("0.policy", "1.policy")[: options["iterations"]]:
        whole, parts = rates(tmp_path / "whole", phase), rates(tmp_path / "parts", phase)
        assert len(whole) > 2 and parts == pytest.approx(whole)
    left = (tmp_path / "parts" / "phases").glob("*/optimizer.safetensors")
    assert [p.parent.name for p in left] == ["0.policy.1"]
    moments = trees.load(tmp_path / "parts" / "phases" / "0.policy.1" / "optimizer.safetensors")
    steps = {int(s["step"]) for s in moments["state"].values()}
    assert steps == {len(rates(tmp_path / "parts", "0.policy"))}


def test_a_budget_is_shared_by_size():
    assert shares([3, 3, 4], 10, None) == [3, 3, 4]
    assert sum(shares([5] * 20, 7, None)) == 7 and min(shares([5] * 20, 7, None)) == 0
    assert shares([4, 5], -1, lambda size: size // 2) == [2, 2]


def test_a_chunk_without_steps_trains_nothing(tmp_path):
    run(tmp_path / "run", data(16), chunk=0.25, iterations=1,
        trainer={**TRAINER, "max_steps": 2})  # fmt: skip
    assert len(rates(tmp_path / "run", "0.policy")) == 2
