"""Two gloo ranks: one judge, one folder, and the same models on both at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import zopro

HERE = Path(__file__).parent


def test_two_ranks_make_one_run(tmp_path):
    paths = [str(HERE.parent), str(Path(zopro.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(HERE / "two_ranks_run.py"), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"rank{i}.json").read_text()) for i in range(2))
    assert first["phases"] == second["phases"] and first["phases"][-1] == "1.updates"
    assert first["asked"] == 2 and second["asked"] == 0
    assert first["policy"] == second["policy"] and first["reward"] == second["reward"]
    # A judge that fails on the main rank stops both with its sentence.
    assert first["error"] == second["error"] == "the judge raised OSError: no answer"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert sum('"event": "done"' in line for line in lines) == len(first["phases"])
