"""No command, phase or checkpoint writes a pickle, not even for a moment."""

import json
import pickle
import pickletools
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from trainer.tiny_trainer import arguments, trainer
from transformers import TrainerCallback

from zopro.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")


def is_pickle(path):
    """Whether `path` holds one, packed (torch.save) or bare; nothing of it is run."""
    if zipfile.is_zipfile(path):
        return any(name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist())
    try:
        return sum(1 for _ in pickletools.genops(path.read_bytes())) > 0
    except Exception:  # what is none fails in many ways
        return False


@pytest.fixture
def no_pickles(monkeypatch):
    """Whatever pickles to a file raises; the number of files looked at, at saves and removals."""
    seen = {"saved": set()}

    def refuses(*args, **kwargs):
        raise AssertionError("a pickle is written")

    def looked(folder):
        for path in (p for p in Path(folder).rglob("*") if p.is_file()):
            assert not is_pickle(path), path
            seen["saved"].add(path.name)

    def on_save(self, args, state, control, **kwargs):
        looked(args.output_dir)

    removes = shutil.rmtree

    def removed(path, *args, **kwargs):
        looked(path)
        removes(path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", refuses)
    monkeypatch.setattr(pickle, "dump", refuses)
    monkeypatch.setattr(pickle, "_dump", refuses)
    monkeypatch.setattr(shutil, "rmtree", removed)
    monkeypatch.setattr(TrainerCallback, "on_save", on_save)
    seen["look"] = looked
    return seen


def test_what_is_a_pickle(tmp_path):
    """The test's own eyes."""
    torch.save({"x": torch.zeros(2)}, tmp_path / "zip")
    (tmp_path / "bare").write_bytes(pickle.dumps({"x": 1}))
    torch.save({"x": 1}, tmp_path / "old", _use_new_zipfile_serialization=False)
    (tmp_path / "text").write_text('{"x": 1}\n')
    assert [is_pickle(tmp_path / n) for n in ("zip", "bare", "old", "text")] == [True] * 3 + [False]


def test_a_run_of_every_phase(train, no_pickles, tmp_path):
    more = ["--first", "rloo", "--save_steps", "1", "--supervised.learning_rate", "1e-3"]
    assert main(train(tmp_path / "run", *more)) == 0
    no_pickles["look"](tmp_path / "run")
    done = json.loads((tmp_path / "run" / "state.json").read_text())["done"]
    assert {"supervised", "reward", "0.policy", "0.refine", "1.policy"} <= set(done)
    names = no_pickles["saved"]
    assert {"training_args.json", "optimizer.safetensors", "loop.safetensors",
            "trainer_state.json", "policy.safetensors", "steps.zolog"} <= names  # fmt: skip


@pytest.mark.parametrize("command", ["sft", "reward"])
def test_a_start(command, model, rows, no_pickles, tmp_path):
    folder = tmp_path / command
    argv = [command, "--task", "translation", "--model", model, "--source", rows, "--limit", "16",
            "--max_steps", "2", "--save_steps", "1", "--use_cpu", "--lora_r", "2",
            "--output_dir", str(folder)]  # fmt: skip
    assert main(argv) == 0
    no_pickles["look"](folder)
    assert {"training_args.json", "optimizer.safetensors"} <= no_pickles["saved"]


def test_pushes_that_would_pickle_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"hub_strategy='every_save' pushes a pickle .*'end'"):
        trainer(tmp_path, push_to_hub=True)
    assert arguments(tmp_path, push_to_hub=True, hub_strategy="end").push_to_hub
