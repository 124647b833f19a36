"""TRL's own script for RLOO, with one import and the configuration class changed."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from trainer.tiny_llama import build_model, build_tokenizer, prompts
from trl import RLOOTrainer
from trl.scripts import rloo

from zopro.trainer import Resumable

# What stands in TRL's script, and what takes its place.
CHANGES = {
    "from trl import RLOOTrainer, get_dataset,": (
        "from zopro import ZOPrOTrainer as RLOOTrainer\n    from trl import get_dataset,"
    ),
    "from trl import DatasetMixtureConfig, ModelConfig, RLOOConfig, TrlParser": (
        "from zopro import ZOPrOConfig as RLOOConfig\n"
        "    from trl import DatasetMixtureConfig, ModelConfig, TrlParser"
    ),
}
REWARD = """
def digits(completions, **columns):
    return [sum(c.isdigit() for c in text) / 10 for text in completions]
"""
LORA = ["--use_peft", "--lora_r", "2", "--lora_target_modules", "q_proj", "v_proj",
        "--lora_dropout", "0"]  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    build_model().save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    for split, rows in (("train", 32), ("test", 8)):
        prompts(rows).to_json(tmp_path / "data" / f"{split}.jsonl")

    (tmp_path / "own_rewards.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(package, *flags, **values):
        text = Path(rloo.__file__).read_text()
        for theirs, ours in CHANGES.items():
            assert text.count(theirs) == 1
            text = text.replace(theirs, ours) if package == "zopro" else text
        script, out = tmp_path / f"{package}_rloo.py", tmp_path / package
        script.write_text(text)
        given = {
            "model_name_or_path": tmp_path / "model", "dataset_name": tmp_path / "data",
            "output_dir": out, "max_steps": 2, "num_generations": 2, "logging_steps": 1,
            "max_completion_length": 6, "per_device_train_batch_size": 4, "report_to": "none",
            "learning_rate": 1e-2, "bf16": False, "reward_funcs": "own_rewards.digits",
            **values,
        }  # fmt: skip
        line = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", [str(script), *line, "--use_cpu", *flags])
        runpy.run_path(str(script), run_name="__main__")
        state = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())
        return state["log_history"], out

    return run


class SameDraws(Resumable, RLOOTrainer):
    """TRL's trainer with the random numbers of ours, those of (seed, step)."""


@pytest.mark.parametrize("lora", [LORA, []], ids=["peft", "full"])
def test_trls_script_trains_by_forward_passes(lora, run, monkeypatch):
    monkeypatch.setattr("trl.RLOOTrainer", SameDraws)
    values = {"eval_strategy": "steps", "eval_steps": 1} if lora else {}
    theirs, their_folder = run("trl", *lora, "--gradient_checkpointing", "False", **values)
    ours, our_folder = run("zopro", *lora, "--zo_num_directions", "2", **values)
    plain = [{name for name in entry if not name.startswith("zo_")} for entry in ours]
    assert plain == [set(entry) for entry in theirs]
    assert ours[0]["reward"] == theirs[0]["reward"]  # the same first rollouts

    names = {p.name for p in their_folder.iterdir()}
    own = {"steps.zolog", "progress.safetensors", "log_history.jsonl", "run.lock"}
    own |= {"start_adapter"} if lora else set()
    assert {p.name for p in our_folder.iterdir()} == names | own
    if lora:
        adapter = load_file(our_folder / "adapter_model.safetensors")
        assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
    else:
        start = load_file(our_folder.parent / "model" / "model.safetensors")
        after = load_file(our_folder / "model.safetensors")
        assert all((after[name] != start[name]).any() for name in start)


@pytest.mark.parametrize("name, value", [("optim", "adafactor"), ("max_grad_norm", 0.3),
                                         ("adam_beta1", 0.0)])  # fmt: skip
def test_a_flag_without_counterpart_is_refused(name, value, run):
    with pytest.raises(ValueError, match=f"{name}={value!r} is refused"):
        run("zopro", **{name: value})
