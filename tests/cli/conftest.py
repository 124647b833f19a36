"""A tiny random Llama in a folder and a local JSONL file: nothing is downloaded."""

import functools
import json
import os

import pytest
import torch

os.environ.setdefault("CI", "1")  # TRL sends no telemetry from continuous integration
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """A working folder of its own, and no variable of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    from trainer.tiny_llama import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("model")
    build_model().save_pretrained(folder)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory):
    from trainer.tiny_llama import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("chat")
    build_model().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    made = (
        {"source": f"w{i % 40} w{(3 * i) % 40} cat {i}", "reference": f"good cat w{i % 40} w2"}
        for i in range(80)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


def command(model, rows, folder, *more, method="zopro"):
    """The command line of a small run, as a list; more options go behind."""
    return [
        "train", "--task", "translation", "--model", model, "--source", rows, "--limit", "16",
        "--output_dir", str(folder), "--method", method, "--max_steps", "2", "--use_cpu",
        "--per_device_train_batch_size", "4", "--logging_steps", "1", "--lora_r", "2",
        "--max_completion_length", "4", "--learning_rate", "1e-2", *more,
        *([] if "--first" in more else ["--first_order.learning_rate", "1e-2"]),
    ]  # fmt: skip


@pytest.fixture
def train(model, rows):
    """`command` on the tiny model and its rows."""
    return functools.partial(command, model, rows)
