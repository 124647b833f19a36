"""A real training process killed at ten random instants (`benchmarks/kills.py` makes it fifty)."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_ten_kills(tmp_path):
    found = tmp_path / "kills.json"
    command = [sys.executable, "benchmarks/kills.py", "--kills", "10", "--json", str(found)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    plans = json.loads(found.read_text())["plans"]
    assert len(plans) == 2
    for kills in plans:
        assert kills["kills"] == 10 and kills["logs replayed to the bit"] >= 1
        assert kills["differing bits"] == 0 and kills["differing metrics"] == 0
        assert max(kills["steps done again, zeroth-order"], default=0) <= 1
