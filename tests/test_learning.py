"""The learning benchmark: one tiny run of each method, the meters, the interpolation."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch
from trainer.tiny_llama import build_model, build_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import learning
import learning_plans
import learning_run
import learning_stats
from learning_large import LARGE
from learning_meters import Meter
from learning_stats import KINDS, METHODS, method_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Settings of a run on a tiny random model and eight local rows."""
    folder = tmp_path_factory.mktemp("learning")
    model, tokenizer = build_model(), build_tokenizer()
    tokenizer.chat_template = None
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"source": f"w{i} w{i + 1} cat", "reference": f"w{i} good"} for i in range(39)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        **learning_run.BASE, "model": str(folder / "model"), "source": str(folder / "rows.jsonl"),
        "prompts": 2, "responses": 2, "batch": 4, "sweeps": 1, "tokens": 4, "seconds": 0.05,
        "held_out": 4, "lr": 0.01, "label": "",
    }  # fmt: skip


@pytest.mark.parametrize("method, iterations", [("zopro", 2), ("spsa", 1), ("rloo", 1)])
def test_a_run(tiny, method, iterations, monkeypatch):
    monkeypatch.setattr(learning_run, "measure_kernels", lambda meter: None)  # global otherwise
    result = learning_run.run({**tiny, "method": method, "iterations": iterations})
    assert result["steps"] >= iterations and len(result["iteration_starts"]) == iterations
    end = result["curve"][-1]
    assert 0.0 <= end["reward"] <= 1.0 and 1 < len(result["rewards"]) <= 4
    assert abs(end["seconds"] - sum(result["seconds"].values())) < 1e-6
    assert (end["backward_tokens"] > 0) == (method == "rloo")
    for phase in ("generation", "scoring", "reward"):
        assert result["seconds"][phase] > 0


def test_the_kl_of_the_start_is_zero_and_of_moved_weights_is_not(tiny):
    from learning_judge import Judge
    from transformers import AutoTokenizer

    from zopro.tasks import get_task

    model = learning_run.load_model(tiny)
    tokenizer = AutoTokenizer.from_pretrained(tiny["model"])
    judge = Judge(model, tokenizer, get_task("translation"), tiny)
    assert judge.evaluate(0)[1] == 0.0
    with torch.no_grad():
        for p in learning_run.trainable(model).values():
            p.mul_(3.0)
    _, kl, length = judge.evaluate(0, samples=8)
    assert kl > 0.01 and 0 < length <= 4
    assert all(p.mean() > 2 for p in learning_run.trainable(model).values())  # left as they were


def test_phases_are_exclusive_and_pauses_do_not_count():
    def burn(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    meter = Meter(torch.device("cpu"))
    with meter.phase("scoring"):
        burn(0.02)
        with meter.phase("reward"):
            burn(0.04)
        with meter.paused():
            burn(0.2)
    assert 0.02 <= meter.seconds["scoring"] < 0.1
    assert 0.04 <= meter.seconds["reward"] < 0.1


def test_rewards_between_points_of_the_curve():
    run = {"curve": [{"seconds": 10.0, "reward": 0.3}, {"seconds": 20.0, "reward": 0.5}]}
    wanted = {0.0: 0.1, 5.0: 0.2, 10.0: 0.3, 15.0: 0.4, 30.0: 0.5}
    for x, reward in wanted.items():
        assert learning_stats.reward_at(run, 0.1, "seconds", x) == pytest.approx(reward)


def test_large_models_have_runs_of_their_own_and_a_call_has_an_end():
    assert {len(runs) for runs in LARGE.values()} == {6}
    methods = ("zopro", "spsa", "rloo", "zopro_first_order")
    made = learning_plans.planned("tune", learning_run.BASE, {}, 1, methods, LARGE)
    assert len(made) == 24 and {s["train"] for s in made} == {"lora", "last_norm"}
    assert all(s.keys() == {*learning_run.BASE, "label"} for s in made)
    assert learning.run_before(time.monotonic() - 1, {"no": "run"}) is None


def test_every_method_is_tuned_equally_often_and_the_best_is_taken():
    assert len({len(runs) for runs in learning_plans.TUNED.values()}) == 1
    runs = [{"settings": {"method": "start"}, "curve": [{"reward": 0.1}]}]
    for s in learning_plans.planned("tune", learning_run.BASE, {}, 1, METHODS):
        method = method_of({"settings": s})
        reward = 0.9 if s["label"] == str(learning_plans.TUNED[method][3]) else 0.2
        runs.append({"settings": s, "curve": [{"seconds": s["seconds"], "reward": reward}]})
    found = learning_plans.best(runs)
    for method, chosen in found.items():
        assert chosen["method"] == KINDS.get(method, method)
        assert chosen.items() >= learning_plans.TUNED[method][3].items()
    around = learning_plans.planned("tune", learning_run.BASE, found, 1, METHODS)
    assert [
        s["lr"] / found["spsa"]["lr"] for s in around if method_of({"settings": s}) == "spsa"
    ] == [1 / 3, 1, 3]
