"""The command under torchrun, two gloo ranks: one run folder, written once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import zopro


def test_two_ranks_train_one_run(train, tmp_path):
    paths = [str(Path(zopro.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    folder = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
              "-m", "zopro.cli"]  # fmt: skip
    done = subprocess.run(
        [*launch, *train(folder)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("done: ") == 1
    state = json.loads((folder / "state.json").read_text())
    assert state["done"][-1] == "1.updates" and state["phase"] is None
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [x["phase"] for x in lines if x.get("event") == "done"] == state["done"]
    for phase in ("reward", "0.policy", "0.refine", "1.policy", "1.refine"):
        assert [x["step"] for x in lines if x["phase"] == phase and "loss" in x] == [1, 2]
        # Both ranks' progress would say it twice.
        assert done.stderr.count(f"\n{phase}: step 2/2, ") == 1
    assert len((folder / "runs.jsonl").read_text().splitlines()) == 1
    assert (folder / "policy" / "adapter_model.safetensors").is_file()
    assert not list((folder / "checkpoints").glob("*"))
