"""Samples over time, and the health of the optimizer, in the run's folder."""

import json
from types import SimpleNamespace

import pytest
import torch
from iterations.tiny_run import data, run
from trainer.tiny_llama import reward_digits

from zopro import ZOPrO
from zopro.iterations.kept import KeepSamples
from zopro.iterations.store import RunFolder
from zopro.trainer.health import health, loss_noise


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_keeps_samples_and_health(tmp_path):
    call = {"reward_funcs": [reward_digits]}
    run(tmp_path / "run", {"prompts": data()["prompts"]}, call=call, first="spsa",
        zeroth={"learning_rate": 1e-2, "num_iterations": 1})  # fmt: skip
    rows = lines(tmp_path / "run" / "samples.jsonl")
    assert {(r["phase"], r["step"]) for r in rows} == {
        (phase, step) for phase in ("0.policy", "1.policy") for step in (1, 2)
    }
    for row in rows:
        (score,) = reward_digits([row["completion"]])
        assert row["rewards"] == {"reward_digits": pytest.approx(score)}
    logs = [x for x in lines(tmp_path / "run" / "metrics.jsonl") if "loss" in x]
    assert all(x["zo_eps"] > 0 and x["zo_loss_change"] >= 0 for x in logs)
    assert [x["phase"] for x in logs if "zo_loss_noise" in x] == ["0.policy", "1.policy"]
    assert [x["phase"] for x in logs if "zo_d" in x] == ["1.policy"] * 2
    times = [x["seconds"] for x in logs]
    assert times == sorted(times)


def test_samples_of_the_same_prompts_and_odd_text(tmp_path):
    (tmp_path / "run").mkdir()
    folder = RunFolder(str(tmp_path / "run"), {}, True)
    folder.create()
    keeper = KeepSamples(folder, "0.policy")

    def score(prompts, completions, **columns):
        return [None if c == "none" else len(c) for c in completions]

    (watched,) = keeper.watch([score])
    prompts = [f"prompt {i}" for i in range(8)]
    for step in (1, 2):
        watched(prompts=prompts, completions=["a\u2028b", "<script>", *["none"] * 6])
        keeper.on_log(
            None, SimpleNamespace(is_world_process_zero=True, global_step=step), None, {"loss": 0.0}
        )
    rows = lines(folder.path / "samples.jsonl")
    assert [r["prompt"] for r in rows[:3]] == [r["prompt"] for r in rows[3:]]
    folder.forget("0.policy", 1)
    assert [r["step"] for r in lines(folder.path / "samples.jsonl")] == [1, 1, 1]
    folder.write_rows("0.pairs", "pairs.jsonl", [{"chosen": "a\u2028b\x85c"}])
    assert folder.read_rows("0.pairs", "pairs.jsonl") == [{"chosen": "a\u2028b\x85c"}]


def test_noise_of_a_loss():
    """On a quadratic with noise of standard deviation 1e-3, the rms of 60 draws is near it."""
    torch.manual_seed(0)
    theta = torch.nn.Parameter(torch.ones(8))
    optimizer = ZOPrO([theta], lr=0.0, eps=1e-2, seed=1)

    def closure():
        return (theta.detach() ** 2).sum().item() + 1e-3 * torch.randn(()).item()

    draws = [loss_noise(optimizer, closure) for _ in range(60)]
    assert torch.tensor(draws).square().mean().sqrt().item() == pytest.approx(1e-3, rel=0.35)
    assert torch.equal(theta.detach(), torch.ones(8))
    quiet = loss_noise(optimizer, lambda: (theta.detach().double() ** 2).sum().item())
    assert quiet < 1e-6
    assert health(optimizer, None) == {}
    optimizer.step(closure)
    told = health(optimizer, 1e-3)
    assert told["zo_loss_noise"] == pytest.approx(1e-3 * 2**0.5) and "zo_d" not in told
    assert told["zo_loss_change"] == pytest.approx(2e-2 * told["grad_norm"])


def test_a_bend_is_no_noise(monkeypatch):
    theta = torch.nn.Parameter(torch.ones(9))  # an odd count of signs, whose sum is not 0
    optimizer = ZOPrO([theta], lr=0.0, eps=0.1, seed=1)

    def cubes():
        return (theta.detach().double() ** 3).sum().item()

    assert loss_noise(optimizer, cubes) < 1e-5
    monkeypatch.setattr("zopro.trainer.health.NEAR", 1.0)
    assert loss_noise(optimizer, cubes) > 1e-4
