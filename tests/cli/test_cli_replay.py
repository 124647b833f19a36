"""`zopro train` leaves a step log of each zeroth-order phase, and `zopro replay` rebuilds what the
phase left from it."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from zopro.cli import main
from zopro.iterations.store import RunFolder
from zopro.steplog import read_log


def rebuilt(base, phase, out, *more):
    """The tensors that a replay of the phase's log over `base` writes, by their bare names."""
    assert main(["replay", str(base), str(phase / "steps.zolog"), "--out", str(out), *more]) == 0
    (file,) = out.glob("*.safetensors")
    return {n.replace(".default.", "."): t for n, t in load_file(file).items()}


def assert_left(found, phase):
    left = load_file(phase / "policy.safetensors")
    left = {n.replace(".default.", "."): t for n, t in left.items()}
    assert left and left.keys() <= found.keys()
    assert not [n for n in left if not torch.equal(left[n], found[n])]


def test_the_phases_of_an_adapter_come_back(train, tmp_path, monkeypatch):
    """Also where a kill came between a phase's end and the removal of its checkpoints."""
    removed, finished = shutil.rmtree, []

    def first_fails(path, *args, **kwargs):
        if str(path).endswith("checkpoints/0.policy") and not finished:
            finished.append(path)
            raise KeyboardInterrupt
        removed(path, *args, **kwargs)

    more = ("--first", "spsa", "--rewards", "chrf", "--save_steps", "1")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", first_fails)
        assert main(train(tmp_path / "run", *more)) == 130
    assert main(train(tmp_path / "run", *more)) == 0
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    for name in ("0.policy", "1.policy"):
        phase = tmp_path / "run" / "phases" / name
        assert read_log(phase / "steps.zolog").steps == 2
        assert_left(rebuilt(phase / "start_adapter", phase, tmp_path / name), phase)
    assert list(phase.glob("targets-*.safetensors"))  # those of 1.policy


def test_the_phases_of_a_whole_model_come_back(train, model, tmp_path):
    more = ("--first", "spsa", "--rewards", "chrf", "--lora_r", "none")
    assert main(train(tmp_path / "run", *more)) == 0
    first, second = (tmp_path / "run" / "phases" / f"{i}.policy" for i in range(2))
    assert_left(rebuilt(model, first, tmp_path / "a"), first)
    base = first / "policy.safetensors"
    assert_left(rebuilt(base, second, tmp_path / "b"), second)


def test_a_log_moves_whole_however_often_it_is_tried(tmp_path, monkeypatch):
    run = RunFolder(str(tmp_path / "run"), {}, True)
    run.path.mkdir()
    run.create()
    here = run.checkpoints("0.policy")
    (here / "start_adapter").mkdir(parents=True)
    names = ("steps.zolog", "steps.zolog.old", "targets-0a.safetensors", "start_adapter/a.json")
    for name in (*names, "progress.safetensors"):
        (here / name).write_text(name)
    replace, count = shutil.os.replace, []

    def killed(*args):
        count.append(args)
        if len(count) % 2 == 0:
            raise KeyboardInterrupt
        replace(*args)

    with monkeypatch.context() as patched:
        patched.setattr(shutil.os, "replace", killed)
        run.state = {"done": ["0.policy"], "phase": None}
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                run._drop_checkpoints("0.policy")
    run.create()
    phase = run.path / "phases" / "0.policy"
    assert sorted(str(p.relative_to(phase)) for p in phase.rglob("*") if p.is_file()) == sorted(
        names
    )
    assert not here.exists()
