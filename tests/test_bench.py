"""Every benchmark at a tiny size: its record's fields, its exit code, its table."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
# Benchmark -> (its command line, key of its rows, fields every row has beside numbers of time).
TINY = {
    "bench_pass": (
        "--numel 4096 --lora 2 --rounds 2 --skip compiled", "passes",
        {"layout", "pass", "dtype", "elements", "tensors", "rounds", "median_s", "low_s", "high_s",
         "elements_per_s", "bytes_per_s", "times mul_", "times MeZO", "share of copy", "host_s"},
    ),
    "bench_step": (
        "--plan tiny:fp32:lora:2x8 --rounds 1", "steps",
        {"shape", "dtype", "trained", "batch", "length", "parameters", "trainable", "tensors",
         "case", "median_s", "forwards_alone_s", "over_forwards", "phases_s", "traffic_s",
         "traffic_times_faster_than_mezo"},
    ),
    "bench_memory": (
        "--plan tiny:fp32:lora:2x8", "steps",
        {"way", "plan", "peak_bytes", "weights_bytes", "over_forward"},
    ),
    "bench_rollout": (
        "--batches 2x2 --tokens 3 --steps 1", "rollouts",
        {"prompts", "responses", "tokens", "generated", "seconds_a_step", "step_s", "tokens_per_s",
         "tokens_per_s_of_generate", "tokens_per_s_of_steps", "parameters", "shape"},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Runs a benchmark in this process at its tiny size; returns (exit code, record)."""

    def run(name: str, *more: str) -> tuple[int, dict]:
        out = tmp_path / f"{name}_cpu.json"
        words = f"{name}.py --device cpu {TINY[name][0]} --out {out}"
        monkeypatch.setattr(sys, "argv", [*words.split(), *more])
        module = importlib.import_module(name)
        if name == "bench_memory":  # imports take seconds in each of its processes
            monkeypatch.setattr(module, "in_a_process", module.measure)
        code = module.main()
        return code, json.loads(out.read_text()) if out.exists() else {}

    return run


@pytest.mark.parametrize("name", TINY)
def test_record_and_table(name, tiny, monkeypatch, tmp_path):
    code, record = tiny(name)
    assert (code, record["left_out"]) == (0, {})
    assert {"device", "driver", "versions", "commit", "command"} <= record.keys()
    _, rows, fields = TINY[name]
    assert record[rows]
    for row in record[rows]:
        assert fields <= row.keys()
    import bench_tables
    import document

    monkeypatch.setattr(document, "RESULTS", tmp_path)
    table = bench_tables.BLOCKS[f"{name}_cpu"]()
    assert table.count("\n") > 3 and f"results/{name}_cpu.json" in table
    assert f"results/{name}_cpu.json" in bench_tables.BLOCKS["bench_summary"]()


def test_passes(tiny):
    _, record = tiny("bench_pass")
    found = {(r["layout"], r["pass"]): r for r in record["passes"]}
    assert {layout for layout, _ in found} == {"4,096", "2 LoRA tensors"}
    names = {name for layout, name in found if layout == "4,096"}
    assert {"copy_ bf16", "MeZO fp32", "foreach bf16", "targeted gaussian bf16",
            "rademacher fp32, 8 seeds", "noise_dots rademacher"} <= names  # fmt: skip
    targeted, copy = found["4,096", "targeted rademacher fp32"], found["4,096", "copy_ fp32"]
    assert copy["times mul_"] > 0 and copy["share of copy"] == 1.0
    rates = targeted["bytes_per_s"] / targeted["elements_per_s"]
    assert rates == pytest.approx(16) and targeted["elements"] == 4096


def test_slow_passes_have_fewer_rounds():
    import bench_pass

    calls = {"slow": 0, "fast": 0}

    def timer(name):
        calls[name] += 1
        return {"slow": 3.0, "fast": 1.0 / calls["fast"] if calls["fast"] else 0.0}[name]

    seconds = bench_pass.measure({"slow": "slow", "fast": "fast"}, 5, timer, most_seconds=2.0)
    assert seconds["slow"] == [3.0] and len(seconds["fast"]) == 3
    assert bench_pass.ratio(seconds, "fast", "slow") == 3.0 / seconds["fast"][0]


def test_steps(tiny, monkeypatch, tmp_path):
    import bench_step

    _, record = tiny("bench_step")
    rows = {r["case"]: r for r in record["steps"]}
    assert list(rows) == [*bench_step.CASES, "MeZO"]
    for row in rows.values():
        assert set(row["phases_s"]) == {"forwards", "perturb", "flip", "restore and update"}
        assert all(s > 0 for s in row["phases_s"].values())
        assert row["traffic_s"] < row["greatest_s"]
    assert rows["MeZO"]["traffic_times_faster_than_mezo"] == 1.0
    pytest.importorskip("matplotlib", reason="plots need zopro[bench]")
    import bench_plots
    import document

    monkeypatch.setattr(document, "RESULTS", tmp_path)
    bench_plots.steps("cpu", tmp_path / "steps.svg")
    assert "two forwards alone" in (tmp_path / "steps.svg").read_text()
    with pytest.raises(document.NotMeasured, match="run `make bench-gpu`"):
        bench_plots.steps("cuda", tmp_path / "none.svg")


def test_rollouts_generate_what_they_claim(tiny):
    _, record = tiny("bench_rollout")
    (row,) = record["rollouts"]
    assert row["generated"] == 2 * 2 * 3
    assert set(row["seconds_a_step"]) == {"generation", "scoring", "reward", "perturbation",
                                          "other"}  # fmt: skip


def test_memory_counts_a_peak_that_is_over():
    """In a process of its own: tensors that are freed again are seen, in bytes."""
    code = """
import torch, bench_memory as b
before = b.resident("VmRSS"); x = torch.ones(1 << 24); del x
b.forget_peak(); low = b.resident("VmHWM") - before
x = torch.ones(1 << 24); del x
print(low, b.resident("VmHWM") - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True,
        env={"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(BENCHMARKS)},
    )  # fmt: skip
    low, high = map(int, done.stdout.split())
    assert low < 2**24 < 2**26 <= high < 2**26 + 2**24


def test_mezo_step_walks_along_its_own_direction():
    import peers

    x = torch.ones(64)
    before = x.clone()
    peers.mezo_step([x], lambda: x.sum(), lr=0.5, eps=1e-3, seed=3)
    torch.manual_seed(3)
    z = torch.normal(0.0, 1.0, (64,))
    assert torch.allclose(x, before - 0.5 * z.sum() * z, atol=1e-2)


@pytest.mark.parametrize("name", ("mezo_pass", "foreach_pass"))
def test_peers_add_scaled_normals(name):
    import peers

    x = torch.zeros(100_000)
    getattr(peers, name)([x], 0.5)
    assert x.std().item() == pytest.approx(0.5, rel=0.02) and abs(x.mean().item()) < 0.01


def test_copies_exceed_four_times_the_cache(monkeypatch):
    import pass_contenders

    monkeypatch.setattr(pass_contenders, "last_level_cache", lambda _: 1000)
    found = pass_contenders.copies([(50,), (10, 5)], torch.float32, "cpu")
    assert len({x.data_ptr() for copy in found for x in copy}) == 2 * len(found)
    assert len(found) * 400 > 4000 >= (len(found) - 1) * 400


def test_a_case_that_fails_or_comes_late_is_told(capsys, tmp_path):
    import argparse

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
