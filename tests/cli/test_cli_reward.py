"""A reward model trained apart, and the run that begins with it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from zopro.cli import main


@pytest.fixture(scope="session")
def scored(tmp_path_factory):
    """Scores of a rater, as translation quality data have them: source, completion, score."""
    path = tmp_path_factory.mktemp("scored") / "scored.jsonl"
    made = (
        {"source": f"w{i % 40} cat {i}", "completion": "good cat" if i % 2 else "bad b",
         "score": 1.5 if i % 2 else -1.5}
        for i in range(64)
    )  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


@pytest.fixture(scope="session")
def paired(tmp_path_factory):
    path = tmp_path_factory.mktemp("paired") / "paired.jsonl"
    row = {"chosen": "good cat w1", "rejected": "bad b w1"}
    path.write_text("".join(json.dumps({"source": f"w{i}", **row}) + "\n" for i in range(40)))
    return str(path)


def learn(model, source, folder, *more):
    return main(["reward", "--task", "translation", "--model", model, "--source", source,
                 "--lora_r", "2", "--lora_alpha", "4", "--max_steps", "30", "--learning_rate",
                 "2e-2", "--per_device_train_batch_size", "16", "--use_cpu",
                 "--logging_steps", "1", "--output_dir", str(folder), *more])  # fmt: skip


def losses(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("kind", ["scores", "pairs"])
def test_a_run_goes_on_from_it(kind, model, scored, paired, train, tmp_path, capsys, monkeypatch):
    source = {"scores": scored, "pairs": paired}[kind]
    learnt, folder = tmp_path / "reward", tmp_path / "run"
    assert learn(model, source, learnt, "--reward_data", kind) == 0
    said = capsys.readouterr().out
    assert f"--reward_model {learnt} --lora_r 2 --lora_alpha 4` goes on" in said
    assert losses(learnt)[-1] < 0.5 * losses(learnt)[0]
    command = train(folder, "--reward_model", str(learnt), "--lora_alpha", "4")
    assert main(command) == 0
    # What it began with is what was learnt, to the bit, and refinement has moved it since.
    before = load_file(folder / "phases" / "reward" / "reward.safetensors")
    held = load_file(learnt / "adapter_model.safetensors")
    assert len(held) == len(before)
    assert {digest(t) for t in held.values()} == {digest(t) for t in before.values()}
    after = load_file(folder / "phases" / "0.refine" / "reward.safetensors")
    assert any(not torch.equal(after[n], before[n]) for n in before)
    # The phase counts as done, and a run that goes on no longer needs the folder.
    monkeypatch.setattr("zopro.iterations.driver.read_reward", lambda *a: pytest.fail("read again"))
    assert main(command) == 0


def digest(tensor):
    return tuple(tensor.shape), tensor.float().flatten().numpy().tobytes()


def test_it_scores_in_the_run_as_it_did_when_it_was_trained(model, scored, train, tmp_path):
    """The same logits by PEFT's own loading of the folder and by the run's reward model."""
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    from zopro.iterations import IterationConfig
    from zopro.iterations.given import read_reward
    from zopro.iterations.models import assign, load_policy
    from zopro.iterations.scoring import RewardScorer, padded, whole

    learnt = tmp_path / "reward"
    assert learn(model, scored, learnt, "--reward_data", "scores") == 0
    config = IterationConfig(str(tmp_path / "run"), model=model, lora_r=2, lora_alpha=4)
    _, reward = load_policy(config, None, True)
    assign(reward.own(), read_reward(str(learnt), config, reward), "reward")
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts, completions = ["w1 cat", "w2 w3 w4"], [" good cat", " bad b"]
    got = RewardScorer(reward, tokenizer, 2, 64)(prompts, completions)
    peft = AutoPeftModelForSequenceClassification.from_pretrained(learnt, num_labels=1).eval()
    peft.config.pad_token_id = tokenizer.pad_token_id
    ids = [whole(p, c, tokenizer) for p, c in zip(prompts, completions)]
    with torch.no_grad():
        want = peft(*padded(ids, tokenizer.pad_token_id)).logits[:, 0].tolist()
    assert got == pytest.approx(want, abs=1e-5) and abs(want[0] - want[1]) > 0.5


def test_folders_that_do_not_serve(model, scored, train, tmp_path, capsys):
    learnt = tmp_path / "reward"
    assert learn(model, scored, learnt, "--reward_data", "scores", "--max_steps", "1") == 0
    capsys.readouterr()

    def refused(*more, folder=learnt):
        command = train(tmp_path / "run", "--reward_model", str(folder), "--lora_alpha", "4", *more)
        assert main(command) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err.removeprefix("zopro: error: ")

    assert "has lora_r=2, and this run 4: give the run lora_r=2" in refused("--lora_r", "4")
    assert "has lora_alpha=4, and this run 8" in refused("--lora_alpha", "8")
    assert "has 'trunk.layers.0.mlp.down_proj" in refused("--target_modules", "q_proj")
    assert "reward_model is given beside reward_funcs" in refused("--rewards", "chrf")
    assert "is given beside supervised, which would move" in refused("--supervised", "{}")
    assert "holds no adapter_config.json: name the folder" in refused(folder=tmp_path)
    held = load_file(learnt / "adapter_model.safetensors")
    name = next(n for n in held if "lora_B" in n)
    save_file({**held, name: held[name] * torch.nan}, learnt / "adapter_model.safetensors")
    assert "with NaN or infinity: train it anew" in refused()
    (learnt / "adapter_model.safetensors").write_bytes(b"torn")
    assert "cannot be read" in refused()
    made = json.loads((learnt / "adapter_config.json").read_text())
    (learnt / "adapter_config.json").write_text(json.dumps({**made, "task_type": "CAUSAL_LM"}))
    assert "is a LORA adapter of task CAUSAL_LM: give a LORA adapter" in refused()
    assert main(["reward", "--task", "translation", "--model", model, "--reward_data", "x"]) == 2
    assert "reward_data='x' is not known: use one of auto, pairs, scores" in capsys.readouterr().err


def test_a_supervised_start_of_its_own(model, rows, train, tmp_path, capsys):
    """sft --merge leaves a whole model that reward and train take; an adapter is named as one."""
    sft = ["sft", "--task", "translation", "--model", model, "--source", rows, "--max_steps", "2",
           "--lora_r", "2", "--use_cpu"]  # fmt: skip
    assert main([*sft, "--output_dir", "whole", "--merge"]) == 0
    assert main([*sft, "--output_dir", "adapter"]) == 0
    assert learn("whole", rows, tmp_path / "reward", "--max_steps", "2") == 0
    assert main(train("run", "--reward_model", "reward", "--iterations", "1", "--lora_alpha", "4",
                      "--model", "whole")) == 0  # fmt: skip
    capsys.readouterr()
    assert main(train("other", "--model", "adapter")) == 2
    assert "model='adapter' holds an adapter: name a whole model" in capsys.readouterr().err
