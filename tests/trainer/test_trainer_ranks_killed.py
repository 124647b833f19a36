"""Two gloo ranks killed between checkpoints go on from their last step, to the bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import zopro

HERE = Path(__file__).parent


def test_two_ranks_killed_at_random_instants(tmp_path):
    paths = [str(HERE.parent), str(Path(zopro.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, str(HERE / "two_ranks_killed.py"), str(tmp_path), "3"],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["kills"] >= 2 and max(found["begun"]) > 0  # there is no checkpoint to go on from
    assert found["run"] == found["whole"]
    assert found["run"][0]["digest"] == found["run"][1]["digest"]
    assert found["run"][0]["history"], "nothing was logged"
    assert all(0 <= count <= 1 for counts in found["again"] for count in counts)
