"""zopro train, sft and reward on a tiny model: to the end, and on after an interruption."""

import json
import signal

import pytest
import torch
import yaml
from safetensors.torch import load_file

from zopro.cli import main
from zopro.iterations.training import LogLines


def lines(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["zopro", "spsa", "rloo"])
def test_two_iterations(method, train, model, rows, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(train(folder, method=method)) == 0
    out = capsys.readouterr()
    assert f"--adapter {folder / 'policy'}" in out.out
    assert "1.policy: step 2/2, 00:00 left, loss " in out.err and "tok/s" in out.err
    assert json.loads((folder / "state.json").read_text())["done"][-1] == "1.updates"
    assert {"reward", "kl", "loss"} <= set().union(*(x for x in lines(folder)))
    options = yaml.safe_load((folder / "config.yaml").read_text())
    section = "first_order" if method == "rloo" else "zeroth"
    assert options[section]["learning_rate"] == 1e-2 and options["method"] == method
    (start,) = map(json.loads, (folder / "runs.jsonl").read_text().splitlines())
    assert start["command"].startswith("zopro train --task translation") and start["versions"]
    command = ["eval", "--task", "translation", "--model", model, "--source", rows, "--split",
               "train", "--limit", "4", "--adapter", str(folder / "policy")]  # fmt: skip
    assert main(command) == 0
    assert (folder / "policy" / "eval-translation-train.json").is_file()


def test_reward_functions_and_a_supervised_start(train, tmp_path, capsys):
    more = ("--rewards", "default", "--supervised", "{}", "--iterations", "1")
    assert main(train(tmp_path / "run", *more)) == 0
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()
    assert "--model" in capsys.readouterr().out
    # The record, taken back, is the same run.
    command = ["train", "--config", str(tmp_path / "run" / "config.yaml")]
    again = tmp_path / "again"
    assert main([*command, "--output_dir", str(again)]) == 0
    assert same(tmp_path / "run" / "policy", again / "policy", "model.safetensors")


def same(a, b, name="adapter_model.safetensors"):
    a, b = load_file(a / name), load_file(b / name)
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("number,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_goes_on_at_its_step(number, code, train, tmp_path, monkeypatch, capsys):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert main(train(whole)) == 0
    on_log, sent = LogLines.on_log, []

    def press(self, args, state, control, **kwargs):
        on_log(self, args, state, control, **kwargs)
        if self._phase == "1.policy" and not sent:
            sent.append(True)
            signal.raise_signal(number)

    monkeypatch.setattr(LogLines, "on_log", press)
    handler = signal.getsignal(number)
    assert main(train(folder)) == code
    assert signal.getsignal(number) is handler
    word = "interrupted" if number == signal.SIGINT else "terminated"
    said = capsys.readouterr().err
    assert "finishing this step and saving" in said
    state = json.loads((folder / "state.json").read_text())
    assert state["phase"] == "1.policy"
    (step,) = (p.name for p in (folder / "checkpoints" / "1.policy").glob("checkpoint-*"))
    assert f"{word} at step {step.split('-')[1]} of 1.policy, saved; the same command" in said
    assert main(train(folder)) == 0
    assert same(whole / "policy", folder / "policy")
    assert len((folder / "runs.jsonl").read_text().splitlines()) == 2


def test_interrupted_between_the_phases(train, tmp_path, monkeypatch, capsys):
    from zopro.cli.judge import TaskJudge

    def press(self, *texts):
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(TaskJudge, "__call__", press)
        assert main(train(tmp_path / "run")) == 130
    assert "zopro: interrupted; the same command goes on with" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "state.json").read_text())["phase"] == "0.pairs"
    assert main(train(tmp_path / "run")) == 0


def test_a_chat_model_and_scores(train, chat_model, rows, tmp_path):
    more = ("--model", chat_model, "--iterations", "1", "--first", "spsa", "--reward_data",
            "scores", "--supervised.max_steps", "1")  # fmt: skip
    assert main(train(tmp_path / "run", *more)) == 0
    steps = [x["step"] for x in lines(tmp_path / "run") if x["phase"] == "supervised"]
    assert max(steps) == 1
    command = ["eval", "--task", "translation", "--model", str(tmp_path / "run" / "policy"),
               "--source", rows, "--limit", "3", "--split", "train"]  # fmt: skip
    assert main(command) == 0


def test_other_options_are_refused(train, tmp_path, capsys):
    assert main(train(tmp_path / "run", "--iterations", "1", "--rewards", "chrf")) == 0
    more = ("--iterations", "1", "--rewards", "chrf", "--blend", "0.5")
    assert main(train(tmp_path / "run", *more)) == 2
    assert "blend=0.5, but the run in" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sft", "reward"])
def test_starts(command, model, rows, tmp_path, monkeypatch, capsys):
    def argv(folder):
        return [command, "--task", "translation", "--model", model, "--source", rows, "--limit",
                "8", "--max_steps", "3", "--logging_steps", "1", "--use_cpu", "--lora_r", "2",
                "--output_dir", str(folder)]  # fmt: skip

    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert main(argv(whole)) == 0
    assert [x["step"] for x in lines(whole) if "loss" in x] == [1, 2, 3]
    from zopro.cli.starts import Lines

    on_log, sent = Lines.on_log, []

    def press(self, args, state, control, **kwargs):
        on_log(self, args, state, control, **kwargs)
        if not sent:
            sent.append(True)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Lines, "on_log", press)
    assert main(argv(folder)) == 130
    assert main(argv(folder)) == 0
    assert [x["step"] for x in lines(folder) if "loss" in x] == [1, 2, 3]
    assert same(whole, folder)
    assert main([*argv(folder), "--lora_alpha", "7"]) == 2
    assert "lora_alpha=7, but the run in" in capsys.readouterr().err
