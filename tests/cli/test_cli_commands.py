"""The commands' overview, doctor, data and eval."""

import json
import subprocess
import sys
import time

import pytest

from zopro.cli import COMMANDS, main


def test_help_is_fast_and_lists_the_commands():
    code = (
        "import sys, time; began = time.perf_counter(); from zopro.cli import main; "
        "code = main(['--help']); heavy = {'torch', 'transformers', 'trl'} & set(sys.modules); "
        "assert not heavy, heavy; assert code == 0; print(time.perf_counter() - began)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    *text, seconds = out.stdout.splitlines()
    assert float(seconds) < 0.5
    assert all(any(line.startswith(f"  {name} ") for line in text) for name in COMMANDS)


def test_the_module_is_the_command():
    began = time.perf_counter()
    run = [sys.executable, "-m", "zopro.cli", "trian"]
    out = subprocess.run(run, capture_output=True, text=True)
    assert out.returncode == 2 and time.perf_counter() - began < 5
    assert out.stderr.startswith("zopro: error: command 'trian' is not known: use one of train, ")
    assert out.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: zopro {command}" in out
    if command in ("train", "sft", "reward"):
        assert out.index("--task") < out.index("--per_device_train_batch_size")


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "noise law 1" in out and "reference  available" in out and "trl" in out


def test_data_of_a_file_and_of_all_tasks(rows, capsys):
    assert main(["data", "translation", "--source", rows]) == 0
    out = capsys.readouterr().out
    counts = {x.split()[0]: int(x.split()[1]) for x in out.splitlines() if x.endswith(" rows")}
    assert set(counts) == {"train", "validation", "test"} and sum(counts.values()) == 80
    assert "reference  'good cat" in out
    assert main(["data", "list"]) == 0
    assert "dialogue: " in capsys.readouterr().out


def test_data_builds(monkeypatch, capsys, tmp_path):
    import dataclasses

    import zopro.tasks
    from zopro.tasks import Origin, get_task

    built = []

    def build(cache):
        built.append(cache)
        return {"train": 8, "validation": 1, "test": 1}

    row = {"source": "a b", "reference": "c", "key": "k"}
    task = dataclasses.replace(
        get_task("translation"), origins={"made": Origin("invented", lambda s, c: [row], None, None,
                                                         build)})  # fmt: skip
    monkeypatch.setattr(zopro.tasks, "get_task", lambda name: task)
    assert main(["data", "translation", "--cache_dir", str(tmp_path)]) == 0
    assert built == [tmp_path] and "train               8 rows" in capsys.readouterr().out


def test_eval_greedy_and_sampled(model, rows, capsys, tmp_path):
    command = ["eval", "--task", "translation", "--model", model, "--source", rows,
               "--limit", "5", "--split", "train", "--max_completion_length", "4"]  # fmt: skip
    assert main([*command, "--output", "a.json"]) == 0
    out = capsys.readouterr().out
    assert "translation, train, 5 rows" in out and "shuffled" in out and "length ratio" in out
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["metrics"]["reference"]["reward"]["mean"] == pytest.approx(1)
    low, mean, high = (found["metrics"]["model"]["reward"][n] for n in ("low", "mean", "high"))
    assert low <= mean <= high < 0.9 and len(found["completions"]) == 5
    assert found["command"].startswith("zopro eval --task") and found["versions"]["torch"]
    for name in ("b", "c"):
        assert main([*command, "--temperature", "1", "--output", f"{name}.json"]) == 0
    sampled = [json.loads((tmp_path / f"{n}.json").read_text())["completions"] for n in "bc"]
    assert sampled[0] == sampled[1] != found["completions"]
