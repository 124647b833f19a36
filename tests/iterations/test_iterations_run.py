"""A whole run: its phases, what each hands to the next, the options that change its course."""

import json

import pytest
import torch
from datasets import Dataset
from iterations.tiny_run import TRAINER, data, ends, run, same, scores, supervised
from safetensors.torch import load_file
from trainer.tiny_llama import build_model, build_tokenizer, reward_digits

import zopro_kernels as zk
from zopro.iterations import IterationConfig, read_config
from zopro.iterations.data import chunks
from zopro.iterations.pairs import nearest_zero
from zopro.trainer import ZOPrOTrainer

TWO = ["start", "reward", "0.policy", "0.pairs", "0.refine", "0.updates",
       "1.policy", "1.pairs", "1.refine", "1.updates"]  # fmt: skip


@pytest.fixture
def targets_set(monkeypatch):
    seen = []
    original = ZOPrOTrainer.set_targets

    def spy(self, policy, reward=None, **options):
        seen.append((policy, reward, options, self))
        original(self, policy, reward, **options)

    monkeypatch.setattr(ZOPrOTrainer, "set_targets", spy)
    return seen


def test_two_iterations_and_targets_handed_on(tmp_path, targets_set):
    out = run(tmp_path / "run")
    assert out.phases == TWO
    folder = tmp_path / "run" / "phases"
    (policy, reward, options, trainer), *more = targets_set
    assert not more  # iteration 0 has none
    assert options["schedule"] == "linear"
    assert same(policy, load_file(folder / "0.updates" / "policy.safetensors"))
    assert same(reward, load_file(folder / "0.updates" / "reward.safetensors"))

    # The updates are what the phases moved.
    start, end = (load_file(folder / p / "policy.safetensors") for p in ("start", "0.policy"))
    assert same(policy, {n: end[n] - start[n] for n in end})
    before, after = (load_file(folder / p / "reward.safetensors") for p in ("reward", "0.refine"))
    for name, moved in reward.items():
        key = name.replace("base_model.model.model.", "trunk.").replace(".default.", ".reward.")
        assert torch.equal(moved, after[key] - before[key])
    assert sum(t.norm() for t in reward.values()) > 0

    # The optimizer got them: every trained tensor is targeted, along those very updates.
    held = trainer.zopro._targets
    assert len(held.prev) == len(policy) and held.steps == 2
    names = {id(p): n for n, p in out.policy.named_parameters()}
    for p, prev in held.prev.items():
        assert torch.equal(prev.values, zk.quantise(policy[names[id(p)]]).values)


def test_without_projection_the_reward_update_is_no_target(tmp_path, targets_set):
    run(tmp_path / "run", project=False)
    ((policy, reward, _, trainer),) = targets_set
    assert policy and reward is None
    assert all(v is None for v in trainer.zopro._targets.v.values())


def test_folder_says_what_ran(tmp_path):
    run(tmp_path / "run", iterations=1)
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["done"] == TWO[:6] and state["phase"] is None
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert IterationConfig.from_dict(stored["options"]).lora_r == 2
    assert torch.__version__.startswith(stored["versions"]["torch"].split("+")[0])
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} == set(TWO[:6])
    assert sum(line.get("event") == "done" for line in lines) == 6
    assert any("kl" in line for line in lines)
    assert not [p for p in (tmp_path / "run").rglob("*") if p.suffix in (".pt", ".bin", ".pkl")]


def test_phases_begin_where_the_former_ended_and_seeds_differ(tmp_path):
    a = ends(run(tmp_path / "a", iterations=1))
    assert same(a, ends(run(tmp_path / "b", iterations=1)))
    assert not same(a, ends(run(tmp_path / "c", iterations=1, seed=1)))


def test_more_iterations_extend_a_finished_run(tmp_path):
    run(tmp_path / "run", iterations=1)
    longer = run(tmp_path / "run", iterations=2)
    assert longer.phases == TWO
    assert same(ends(longer), ends(run(tmp_path / "whole", iterations=2)))


def test_plain_reward_has_no_reward_phases(tmp_path, targets_set):
    call = {"reward_funcs": [reward_digits]}
    out = run(tmp_path / "run", {"prompts": data()["prompts"]}, call=call, first="spsa")
    assert out.reward is None
    assert out.phases == ["start", "0.policy", "0.updates", "1.policy", "1.updates"]
    assert targets_set[0][1] is None  # v is left out


def test_all_weights_with_a_plain_reward(tmp_path, targets_set):
    call = {"reward_funcs": [reward_digits]}
    policy = {"num_generations": 2, "beta": 0.0}
    out = run(tmp_path / "run", {"prompts": data()["prompts"]}, call=call, lora_r=None,
              policy=policy, first="spsa")  # fmt: skip
    assert all(p.requires_grad and not p.is_inference() for p in out.policy.parameters())
    update = targets_set[0][0]
    assert set(update) == {n for n, _ in build_model().named_parameters()}


@pytest.mark.parametrize("method", ["spsa", "rloo"])
def test_baselines_run_the_same_phases(method, tmp_path, targets_set):
    out = run(tmp_path / "run", method=method, first="spsa" if method == "spsa" else "rloo")
    assert out.phases == TWO and not targets_set


def test_supervised_start_becomes_the_base(tmp_path):
    model = build_model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    out = run(tmp_path / "run", data(supervised=supervised()), model=model, iterations=1,
              supervised={"learning_rate": 1e-2})  # fmt: skip
    assert out.phases == ["start", "supervised", *TWO[1:6]]
    base = {n.replace(".base_layer", ""): p for n, p in model.named_parameters()}
    linear = [n for n in before if "_proj" in n]
    assert all(not torch.equal(base[n], before[n]) for n in linear)
    folder = tmp_path / "run" / "phases"
    start = load_file(folder / "start" / "policy.safetensors")
    update = load_file(folder / "0.updates" / "policy.safetensors")
    end = load_file(folder / "0.policy" / "policy.safetensors")
    assert same(update, {n: end[n] - start[n] for n in end})  # not the supervised adapter


def test_reward_by_regression_on_scores(tmp_path):
    rows = {**data(), "reward": scores(64)}
    trainer = {"max_steps": 60, "per_device_train_batch_size": 8, "logging_steps": 1,
               "use_cpu": True, "disable_tqdm": True}  # fmt: skip
    run(tmp_path / "run", rows, reward_data="scores", iterations=1, save_steps=100,
        reward={"max_steps": 60, "learning_rate": 3e-2}, refine={"max_steps": 1}, trainer=trainer,
        policy={"num_generations": 2, "beta": 0.0, "max_steps": 1})  # fmt: skip
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [x["loss"] for x in lines if x["phase"] == "reward" and "loss" in x]
    assert losses[0] > 0.2 and losses[-1] < 0.05


def test_chunks_refine_within_an_iteration(tmp_path, targets_set):
    out = run(tmp_path / "run", chunk=0.5, trainer={**TRAINER, "max_steps": 4}, schedule="cosine")
    inner = [p for k in (0, 1) for p in (f"policy.{k}", f"pairs.{k}", f"refine.{k}")]
    wanted = [f"{i}.{p}" for i in (0, 1) for p in [*inner, "updates"]]
    assert out.phases == ["start", "reward", *wanted]
    assert len(targets_set) == 2 and targets_set[0][0].keys() == targets_set[1][0].keys()
    # One schedule over both chunks: d is 0.999 at the start, and goes on where chunk 0 ended.
    (schedules, steps) = zip(*[(o["schedule"], o["steps"]) for _, _, o, _ in targets_set])
    assert steps[0] == steps[1] == 4
    d = [schedules[k](s, 4) for k in (0, 1) for s in (0, 1)]
    assert d[0] == 0.999 and d == sorted(d, reverse=True) and d[2] < d[1]


def test_chunk_sizes():
    rows = Dataset.from_dict({"prompt": [str(i) for i in range(10)]})
    assert [len(c) for c in chunks(rows, 0.3)] == [3, 3, 4]
    assert [c["prompt"][0] for c in chunks(rows, 0.5)] == ["0", "5"]
    assert [len(c) for c in chunks(rows, None)] == [10]
    assert [len(c) for c in chunks(rows, 0.01)] == [1] * 10


def test_nearest_zero():
    assert nearest_zero([3.0, -1.0, 0.5, 2.0, -0.1], 0.6) == [1, 2, 4]
    assert nearest_zero([1.0, -1.0], 0.5) == [0] and nearest_zero([1.0], 0.01) == [0]
    with pytest.raises(ValueError, match="response 1 nan"):
        nearest_zero([1.0, float("nan")], 0.5)


def test_conversational_data(tmp_path):
    rows = {
        "prompts": Dataset.from_dict({"prompt": [[{"role": "user", "content": "w1"}]] * 8}),
        "reward": Dataset.from_dict(
            {
                "prompt": [[{"role": "user", "content": "w1 w2"}]] * 8,
                "chosen": [[{"role": "assistant", "content": "good cat"}]] * 8,
                "rejected": [[{"role": "assistant", "content": "bad b"}]] * 8,
            }
        ),
    }
    assert build_tokenizer().chat_template
    assert run(tmp_path / "run", rows, iterations=1).phases == TWO[:6]


def test_options_from_files(tmp_path):
    (tmp_path / "a.yaml").write_text("output_dir: x\nlora_r: 3\nzeroth: {zo_eps: 0.01}\n")
    assert read_config(tmp_path / "a.yaml").zeroth == {"zo_eps": 0.01}
    (tmp_path / "a.json").write_text('{"output_dir": "x", "rank": 3}')
    with pytest.raises(ValueError, match="option 'rank' is not known"):
        read_config(tmp_path / "a.json")
