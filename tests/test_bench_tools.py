"""What benchmarks share: cases that may fail, budgets, the runner, GPU check, absent records."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_case_that_fails_or_comes_late_is_told(capsys, tmp_path):
    from harness import Cases

    args = argparse.Namespace(out=tmp_path / "x.json", device="cpu")
    cases = Cases(budget=60)
    assert cases.run("good", lambda a: a + 1, 2) == 3
    assert cases.run("bad", lambda: 1 / 0) is None
    late = Cases(budget=-1)
    assert late.run("late", lambda: 1) is None
    assert cases.finish(args, "x", {"rows": [1]}, fact=2) == 1
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["rows"] == [1] and record["fact"] == 2
    assert record["left_out"] == {"bad": "ZeroDivisionError: division by zero"}
    assert capsys.readouterr().out == "left out: bad: ZeroDivisionError: division by zero\n"
    args.out = tmp_path / "none.json"
    assert late.finish(args, "x", {"rows": []}) == 1 and not args.out.exists()
    assert late.left_out == {"late": "the time budget of -1 s was spent"}
    assert Cases(60).finish(args, "x", {"rows": [1]}) == 0


def test_all_go_on_after_a_failure_and_the_exit_code_says_it(monkeypatch, capfd, tmp_path):
    import bench_all

    monkeypatch.setattr(bench_all, "HERE", tmp_path)
    monkeypatch.setattr(bench_all, "GRACE", 0)
    (tmp_path / "fails.py").write_text("raise SystemExit(3)")
    (tmp_path / "hangs.py").write_text("import time; time.sleep(60)")
    (tmp_path / "works.py").write_text("print('the last one ran')")
    monkeypatch.setattr(sys, "argv", ["bench_all.py", "cpu"])
    began = time.monotonic()
    assert bench_all.main({"cpu": [(["fails.py"], 30), (["hangs.py"], 1), (["works.py"], 30)]}) == 1
    assert time.monotonic() - began < 30
    said = capfd.readouterr().out
    assert "the last one ran" in said and "exit code 3" in said and "stopped after 1 s" in said
    assert bench_all.main({"cpu": [(["works.py"], 30)]}) == 0


def test_budgets_end_within_ten_minutes():
    import bench_all

    for steps in bench_all.STEPS.values():
        assert sum(budget for _, budget in steps) <= 560  # leaves time for the last cases to end
        for command, _ in steps:
            assert (BENCHMARKS / command[0]).exists()


def test_no_gpu_is_one_sentence(monkeypatch, capsys):
    import harness

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench_step.py", "--device", "cuda"])
    with pytest.raises(SystemExit):
        harness.parsed(harness.options("What it does.", 1))
    assert "torch sees no GPU here; use --device cpu" in capsys.readouterr().err


def test_bits_are_compared(monkeypatch):
    import gpu_check

    import zopro_kernels as zk

    if (state := zk.backends()["cpu"]) != "available":
        pytest.skip(f"the cpu backend is {state}")
    rows = gpu_check.check_bits("cpu", ("cpu",), 1003)
    assert len(rows) == 6 and rows[0]["elements"] == 1003
    noise = zk.noise

    def broken(*args, **kwargs):
        found = noise(*args, **kwargs)
        if kwargs["backend"] == "cpu":
            found[77] += 1
        return found

    monkeypatch.setattr(zk, "noise", broken)
    with pytest.raises(SystemExit, match=r"cpu rademacher \+0: 77 differs"):
        gpu_check.check_bits("cpu", ("cpu",), 1003)


def test_absent_records_are_told(monkeypatch, tmp_path):
    import document
    import tables

    monkeypatch.setattr(document, "RESULTS", tmp_path)
    text = "<!-- table: bench_step_cuda -->\nold\n<!-- end -->"
    told = "not measured yet: run `make bench-gpu`"
    assert tables.filled(text) == f"<!-- table: bench_step_cuda -->\n{told}\n<!-- end -->"
