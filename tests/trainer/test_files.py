"""Disk full, a folder that vanishes, two runs in one folder: one sentence, and nothing is lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from trainer.tiny_trainer import trainer
from transformers import TrainerCallback

from zopro import files


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(call, tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    files.write_beside(path, "old")
    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(OSError, match=r"state.json' cannot be written: No space left on device; "
                                      "make room and give the same command again"):  # fmt: skip
        files.write_beside(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_a_full_disk_takes_half_a_line_back():
    """/dev/full is a disk that is full: write itself fails there."""
    with pytest.raises(OSError, match="'/dev/full' cannot be written: No space left on device"):
        files.append(files.Path("/dev/full"), "line\n")


def test_a_short_write_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    files.append(path, "one\n")

    class Short:
        def __init__(self, *args, **kwargs):
            self._file = open(*args, **kwargs)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *rest):
            self._file.close()

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, data):
            return self._file.write(data[:2])

    monkeypatch.setattr(files, "open", Short, raising=False)
    with pytest.raises(OSError, match="No space left on device"):
        files.append(path, "two\n")
    assert path.read_text() == "one\n"


def test_a_full_disk_in_training_is_told_and_the_run_goes_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        count = []

        def third(*args):
            count.append(args)
            return full() if len(count) == 3 else replace(*args)

        replace = os.replace
        patched.setattr(files.os, "replace", third)
        with pytest.raises(OSError, match="cannot be written: No space left on device; make room"):
            trainer(tmp_path).train()
    whole = trainer(tmp_path / "whole")
    whole.train()
    rest = trainer(tmp_path)
    rest.train(resume_from_checkpoint=True)
    assert rest.state.global_step == 4
    for a, b in zip(rest.model.parameters(), whole.model.parameters(), strict=True):
        assert a.equal(b)


class Removes(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            shutil.rmtree(args.output_dir)


def test_a_folder_that_vanishes(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(OSError, match=r"its folder '.*run' is gone"):
        trainer(folder, callbacks=[Removes()]).train()
    assert not folder.exists()


HOLDS = """
import pathlib, sys, time
from zopro.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_runs_in_one_folder(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        host = json.loads((tmp_path / files.LOCK).read_text())["host"]
        with pytest.raises(RuntimeError, match=f"in use by process {other.pid} on {host}: wait"):
            trainer(tmp_path).train()
        assert [p.name for p in tmp_path.iterdir()] == [files.LOCK]  # nothing was touched
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
    trainer(tmp_path).train()  # a killed process holds nothing
