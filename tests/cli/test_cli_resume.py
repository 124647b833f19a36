"""Stopped anywhere, the same command goes on, and ends where an unbroken run ends, to the bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli.conftest import command
from cli.stops import KILLED, POINTS, TRAINED, arm
from safetensors.torch import load_file

import zopro
from zopro.cli import main

HERE = Path(__file__).parent
MORE = ("--supervised", "{}", "--save_steps", "1", "--max_steps", "3")


@pytest.fixture(scope="module")
def whole(model, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(model, rows, folder, *MORE)) == 0
    return folder


def ends(folder):
    """Every tensor that the run left, of all phases, and the steps and losses that it logged."""
    found = {str(p.relative_to(folder)): load_file(p) for p in folder.rglob("*.safetensors")}
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return found, [(r["phase"], r["step"], r["loss"]) for r in rows if "loss" in r]


def assert_same(folder, whole):
    (a, steps), (b, expected) = ends(folder), ends(whole)
    assert steps == expected and a.keys() == b.keys()
    different = [(f, n) for f in b for n in b[f] if not torch.equal(a[f][n], b[f][n])]
    assert not different, different[0]


def test_interrupted_at_every_point(whole, train, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    for point in POINTS:
        with monkeypatch.context() as patched:
            arm(point, lambda: signal.raise_signal(signal.SIGINT), patched.setattr)
            assert main(train(folder, *MORE)) == 130, point
        state = json.loads((folder / "state.json").read_text())
        phase = point.replace("sampling", "pairs").replace("judge", "pairs")
        assert state["phase"] == phase and phase not in state["done"]
        said = capsys.readouterr().err
        where = f" at step 2 of {phase}, saved" if point in TRAINED else ""
        assert f"zopro: interrupted{where}; the same command goes on with {folder}" in said
    assert main(train(folder, *MORE)) == 0
    assert_same(folder, whole)


def test_killed_at_every_point(whole, train, tmp_path):
    """SIGKILL, as of a scheduler or the kernel: nothing is finished, nothing is said."""
    folder = tmp_path / "run"
    paths = [str(HERE.parent), str(Path(zopro.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(
        [sys.executable, str(HERE / "stops.py"), *train(folder, *MORE)],
        env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((folder / "state.json").read_text())["phase"] == KILLED[-1]
    assert main(train(folder, *MORE)) == 0
    assert_same(folder, whole)
