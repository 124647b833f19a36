"""What is taken where nothing is said: learning rates by the number of weights, fp32 on a CPU."""

import json

import torch
from iterations.tiny_run import TRAINER, data, run
from trainer.tiny_llama import build_model, build_tokenizer

from zopro.iterations import IterationConfig
from zopro.iterations.models import load_policy, policy_weights


def rates(folder):
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return {r["phase"]: r["learning_rate"] for r in rows if "loss" in r and r["step"] == 1}


def test_learning_rates(tmp_path):
    trainer = {**TRAINER, "lr_scheduler_type": "constant", "max_steps": 1}
    out = run(tmp_path / "a", trainer=trainer, zeroth={}, first_order={})
    count = sum(p.numel() for p in policy_weights(out.policy).values())
    assert rates(tmp_path / "a")["0.policy"] == 5e-5
    assert rates(tmp_path / "a")["1.policy"] == 10 / count
    # Options of the phase win, those of `policy` too.
    run(tmp_path / "b", trainer=trainer, zeroth={"learning_rate": 0.25}, first_order={},
        policy={"num_generations": 2, "learning_rate": 0.5})  # fmt: skip
    assert rates(tmp_path / "b")["0.policy"] == 0.5 and rates(tmp_path / "b")["1.policy"] == 0.25


def test_a_step_moves_no_further_where_there_are_more_weights(tmp_path):
    """At four times the rank the same slope moves the adapter half as far, not twice."""
    trainer = {**TRAINER, "lr_scheduler_type": "constant", "max_steps": 1}
    moved = {}
    for rank in (2, 8):
        folder = tmp_path / str(rank)
        one = {"zo_num_directions": 1, "zo_estimator": "two_sided"}
        out = run(folder, data(), trainer=trainer, zeroth=one, first="spsa", iterations=1,
                  lora_r=rank, lora_alpha=2 * rank)  # fmt: skip
        rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        slope = next(r["grad_norm"] for r in rows if r["phase"] == "0.policy" and "loss" in r)
        count = sum(p.numel() for p in policy_weights(out.policy).values())
        norm = next(r["policy_update_norm"] for r in rows if r["phase"] == "0.updates")
        moved[rank] = norm / slope
        assert abs(moved[rank] * count**0.5 / 10 - 1) < 1e-3
    assert abs(moved[8] / moved[2] - 0.5) < 1e-3


def test_the_rate_takes_the_adapters_scale_out(tmp_path):
    trainer = {**TRAINER, "lr_scheduler_type": "constant", "max_steps": 1}
    found = []
    for alpha in (4, 16):  # alpha / r of 2 and 8
        run(tmp_path / str(alpha), trainer=trainer, zeroth={}, first="spsa", iterations=1,
            lora_alpha=alpha)  # fmt: skip
        found.append(rates(tmp_path / str(alpha))["0.policy"])
    assert found[0] == 16 * found[1]


def test_dtype_on_a_cpu(tmp_path):
    build_model().to(torch.bfloat16).save_pretrained(tmp_path / "m")
    build_tokenizer().save_pretrained(tmp_path / "m")
    for dtype, want in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        config = IterationConfig(str(tmp_path / "run"), model=str(tmp_path / "m"), dtype=dtype,
                                 trainer={"use_cpu": True})  # fmt: skip
        policy, _ = load_policy(config, None, False)
        assert policy.get_base_model().lm_head.weight.dtype == want
