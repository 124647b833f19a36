"""A script in the manner of TRL's for RLOO: one import and one class differ, all flags work."""

import runpy
import sys
import textwrap

import pytest
from safetensors.torch import load_file
from trainer.tiny_llama import build_model, build_tokenizer, prompts
from trl import RLOOTrainer

from zopro.trainer import Resumable

SCRIPT = """
    from datasets import load_dataset
    from {package} import {config}, {trainer}
    from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config

    def digits(completions, **columns):
        return [sum(c.isdigit() for c in text) / 10 for text in completions]

    parser = TrlParser((ScriptArguments, {config}, ModelConfig))
    script, training, model = parser.parse_args_and_config()
    training.model_init_kwargs = {{"revision": model.model_revision, "dtype": model.dtype}}
    dataset = load_dataset(script.dataset_name, name=script.dataset_config)
    trainer = {trainer}(
        model=model.model_name_or_path,
        reward_funcs=[digits],
        args=training,
        train_dataset=dataset[script.dataset_train_split],
        eval_dataset=None if training.eval_strategy == "no" else dataset["test"],
        peft_config=get_peft_config(model),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)
"""
THEIRS = {"package": "trl", "config": "RLOOConfig", "trainer": "RLOOTrainer"}
OURS = {"package": "zopro", "config": "ZOPrOConfig", "trainer": "ZOPrOTrainer"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    build_model().save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    for split, rows in (("train", 32), ("test", 8)):
        prompts(rows).to_json(tmp_path / "data" / f"{split}.jsonl")

    def run(names, *flags, **values):
        script = tmp_path / f"{names['package']}_rloo.py"
        script.write_text(textwrap.dedent(SCRIPT.format(**names)))
        out = tmp_path / names["package"]
        given = {
            "model_name_or_path": tmp_path / "model", "dataset_name": tmp_path / "data",
            "output_dir": out, "max_steps": 2, "num_generations": 2, "logging_steps": 1,
            "max_completion_length": 6, "per_device_train_batch_size": 4, "report_to": "none",
            "learning_rate": 1e-2, "bf16": False, **values,
        }  # fmt: skip
        line = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", [str(script), *line, "--use_cpu", *flags])
        return runpy.run_path(str(script), run_name="__main__")["trainer"], out

    return run


class SameDraws(Resumable, RLOOTrainer):
    """TRL's trainer with the random numbers of ours, those of (seed, step)."""


def test_the_same_script_trains_by_forward_passes(run, monkeypatch):
    monkeypatch.setattr("trl.RLOOTrainer", SameDraws)
    lora = [
        "--use_peft",
        "--lora_r",
        "2",
        "--lora_target_modules",
        "q_proj",
        "v_proj",
        "--lora_dropout",
        "0",
    ]
    values = {"eval_strategy": "steps", "eval_steps": 1}
    theirs, their_folder = run(THEIRS, *lora, "--gradient_checkpointing", "False", **values)
    ours, our_folder = run(OURS, *lora, "--zo_num_directions", "2", **values)
    histories = ours.state.log_history, theirs.state.log_history
    assert [set(entry) for entry in histories[0]] == [set(entry) for entry in histories[1]]
    assert histories[0][0]["reward"] == histories[1][0]["reward"]  # the same first rollouts
    assert all(p.grad is None for p in ours.model.parameters())

    names = {p.name for p in their_folder.iterdir()}
    own = {"steps.zolog", "start_adapter", "progress.safetensors", "log_history.jsonl", "run.lock"}
    assert {p.name for p in our_folder.iterdir()} == names | own
    adapter = load_file(our_folder / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)


def test_a_flag_without_counterpart_is_refused_or_noticed(run):
    with pytest.raises(ValueError, match="optim='adafactor' is refused"):
        run(OURS, optim="adafactor")
    with pytest.warns(UserWarning, match="max_grad_norm=0.3 is switched off"):
        run(OURS, max_grad_norm=0.3)
