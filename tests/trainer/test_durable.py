"""A full disk is a sentence, also in others' files; a loss of power finds a whole checkpoint."""

import os
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from trainer.tiny_llama import build_model
from trainer.tiny_trainer import trainer
from transformers import TrainerCallback

from zopro.cli import main
from zopro.trainer.resumable import last_checkpoint


@contextmanager
def files_of_at_most(size):
    """As a full disk: the kernel refuses what goes beyond."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, handler)


class Stops(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


def test_a_full_disk_in_the_weights_of_a_checkpoint(tmp_path):
    options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    whole, run = tmp_path / "whole", tmp_path / "run"
    trainer(whole, **options).train()
    trainer(run, **options, callbacks=[Stops()]).train()
    size = (run / "checkpoint-1" / "model.safetensors").stat().st_size
    words = r"run' cannot be written: File too large; make room and give the same command again"
    with files_of_at_most(size - 1), pytest.raises(OSError, match=words):
        trainer(run, **options).train(resume_from_checkpoint=True)
    assert last_checkpoint(run).endswith("checkpoint-1")
    rest = trainer(run, **options)
    rest.train(resume_from_checkpoint=True)
    name = "checkpoint-3/model.safetensors"
    same = (run / name).read_bytes() == (whole / name).read_bytes()
    assert same


def test_a_full_disk_in_a_replay(tmp_path, capsys):
    base, run, out = tmp_path / "base", tmp_path / "run", tmp_path / "out"
    build_model().save_pretrained(base)
    trainer(run, build_model(), max_steps=1, save_strategy="no").train()
    argv = ["replay", str(base), str(run / "steps.zolog"), "--out", str(out)]
    with files_of_at_most(1000):
        assert main(argv) == 2
    error = capsys.readouterr().err
    assert f"zopro: error: {str(out)!r} cannot be written: File too large; make room" in error
    assert not out.exists()
    assert main(argv) == 0


def test_a_checkpoint_is_on_the_disk_before_the_former_one_goes(tmp_path, monkeypatch):
    fsync, rmtree, synced, early, gone = os.fsync, shutil.rmtree, {}, set(), []

    def noted(handle):
        fsync(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        synced[path] = path.stat().st_mtime_ns
        if not (path.parent / "trainer_state.json").exists():
            early.add(path)

    def removed(path, *args, **kwargs):
        number = Path(path).name.removeprefix("checkpoint-")
        if number.isdigit():
            new = Path(path).with_name(f"checkpoint-{int(number) + 1}")
            files = [p for p in new.rglob("*") if p.is_file()]
            weights = [p for p in files if p.suffix == ".safetensors"]
            assert len(weights) == 3 and early.issuperset(weights)
            for file in [*files, new, new.parent, new.parent / "steps.zolog"]:
                assert synced.get(file) == file.stat().st_mtime_ns, file
            gone.append(int(number))
        rmtree(path, *args, **kwargs)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(shutil, "rmtree", removed)
    trainer(tmp_path, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=1).train()
    assert gone == [1, 2]
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
