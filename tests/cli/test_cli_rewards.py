"""Rewards, data and tokenizers that do not serve: one sentence each, whichever phase meets them."""

import dataclasses
import json
import threading
from pathlib import Path

import pytest
from cli.test_cli_input import refused

import zopro.cli.models
from zopro.tasks import get_task


@pytest.fixture
def with_reward(monkeypatch):
    """The translation task with another default reward."""

    def put(reward):
        task = dataclasses.replace(get_task("translation"), rewards={"bad": lambda: reward})
        monkeypatch.setattr(zopro.cli.models, "get_task", lambda name: task)

    return put


def raises(completions, **columns):
    raise KeyError("no such word")


def nan(completions, **columns):
    return [float("nan")] * len(completions)


def short(completions, **columns):
    return [0.0] * (len(completions) - 1)


def slow(completions, **columns):
    threading.Event().wait(20)
    return [0.0] * len(completions)


OF_A_PHASE = [
    (raises, "Reward function 'raises' raised KeyError: 'no such word'"),
    (nan, "Reward function 'nan' returned nan for completion 0: return a finite number"),
    (short, "Reward function 'short' returned 3 rewards for 4 completions: return one for each"),
    (slow, "Reward function 'slow' raised TimeoutError: it took over reward_timeout=0.2 seconds"),
]
OF_THE_JUDGE = [
    (raises, "the judge raised KeyError: 'no such word'"),
    (nan, "the judge gave no usable verdict for any of "),
    (short, "the judge returned "),
    (slow, "the judge raised TimeoutError: it took over reward_timeout=0.2 seconds"),
]


def last(argv, capsys):
    """The error of a run that has said other things before it."""
    assert zopro.cli.main(argv) == 2
    return capsys.readouterr().err.splitlines()[-1].removeprefix("zopro: error: ")


@pytest.mark.parametrize("reward,sentence", OF_A_PHASE, ids=lambda x: getattr(x, "__name__", ""))
def test_as_reward_functions(reward, sentence, with_reward, train, tmp_path, capsys):
    with_reward(reward)
    more = ("--rewards", "bad", "--reward_timeout", "0.2")
    assert last(train(tmp_path / "run", *more), capsys).startswith(sentence)


@pytest.mark.parametrize("reward,sentence", OF_THE_JUDGE, ids=lambda x: getattr(x, "__name__", ""))
def test_as_the_judge(reward, sentence, with_reward, train, tmp_path, capsys):
    with_reward(reward)
    assert last(train(tmp_path / "run", "--reward_timeout", "0.2"), capsys).startswith(sentence)


def test_data_and_adapters(train, tmp_path, capsys):
    Path("empty.jsonl").write_text("")
    Path("scored.jsonl").write_text(json.dumps({"source": "a", "completion": "b", "score": 1}))
    for more, sentence in [
        (["--source", "empty.jsonl"], "empty.jsonl has no rows for split 'train'"),
        (["--source", "scored.jsonl"], "row 1 of scored.jsonl has no column 'reference'; it needs"),
        (["--max_prompt_length", "1"], "max_tokens is 1, and task 'translation''s instruction"),
        (["--reward_lora_r", "3"], "'base_model.model.model.layers.0.self_attn.q_proj.lora_A."),
    ]:
        said = refused(train(tmp_path / "run", *more), capsys)
        assert said.startswith(sentence), said
        assert not (tmp_path / "run").exists()


def test_tokenizers_without_a_pad_token(train, model, tmp_path, capsys):
    from trainer.tiny_llama import build_model
    from transformers import AutoTokenizer

    build_model().save_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "m")
    command = train(tmp_path / "run", "--model", str(tmp_path / "m"), "--iterations", "1")
    assert zopro.cli.main(command) == 0  # [PAD] is in its vocabulary
    capsys.readouterr()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "m")
    said = refused([*command, "--output_dir", str(tmp_path / "other")], capsys)
    assert said.startswith("the tokenizer has no end-of-sequence token: set tokenizer.eos_token")
