"""Every benchmark at a tiny size: its record's fields, its exit code, its table."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
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


def test_a_gpu_is_timed_by_events_and_its_peak_is_the_allocators(monkeypatch):
    """With stand-ins for what a GPU says, everything else on the CPU."""
    import bench_memory
    import bench_pass

    clock = iter(range(10))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(clock)

        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at)

    waits = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    assert bench_pass.timer_of("cuda")(lambda: next(clock)) == 2.0 and len(waits) == 1
    assert bench_pass.host_seconds(lambda: None) < 1.0 and len(waits) == 2

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 350)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: waits.append(2))
    build = bench_memory.shapes.build
    on_cpu = lambda shape, dtype, device, *rest: build(shape, dtype, "cpu", *rest)  # noqa: E731
    batch_of = bench_memory.shapes.batch_of
    monkeypatch.setattr(bench_memory.shapes, "build", on_cpu)
    monkeypatch.setattr(bench_memory.shapes, "batch_of", lambda *a: batch_of(*a[:3], "cpu"))
    row = bench_memory.measure("ZOPrO in place", "tiny:fp32:full:1x4", "cuda")
    assert row["peak_bytes"] == 250 and waits[2:] == [2] and row["weights_bytes"] > 1e5
