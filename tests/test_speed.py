"""Guards of the CPU kernels' speed: far below the goals, they catch lost vectorisation alone.

The goals themselves are `python benchmarks/bench_pass.py --check`. Here one core must reach the
floors of the same table, in CPU time, best of several rounds: a busy machine does not fail them,
code that lost its vector instructions does.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import zopro_kernels as zk
from zopro_kernels import cpu

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
ATTEMPTS = 3

# In a process of its own, because threads and instruction set are chosen once.
MEASURE = "import json, bench_pass; print(json.dumps(bench_pass.one_core(1 << 24, 9)))"


@pytest.fixture
def bench_pass(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_pass

    return bench_pass


def ratios(**environment: str) -> dict[str, float]:
    path = os.pathsep.join(filter(None, [str(BENCHMARKS), os.environ.get("PYTHONPATH")]))
    own = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def needs_vectors() -> None:
    if (state := zk.backends()["cpu"]) != "available":
        pytest.skip(f"the cpu backend is {state}")
    if "ZOPRO_CPU_ISA" not in os.environ and cpu.instruction_set() == "baseline":
        pytest.skip("this processor has neither AVX2 nor AVX-512")


def test_vectorised_kernels_stay_above_their_floors(bench_pass):
    needs_vectors()
    floors = {goal.name: goal.floor for goal in bench_pass.GOALS}
    best = dict.fromkeys(floors, 0.0)
    for _ in range(ATTEMPTS):
        best = {name: max(best[name], ratio) for name, ratio in ratios().items()}
        if not bench_pass.missed(best, floors):
            break
    assert not bench_pass.missed(best, floors)


def test_code_without_vectors_falls_below_the_floors(bench_pass):
    needs_vectors()
    floors = {goal.name: goal.floor for goal in bench_pass.GOALS}
    slow = bench_pass.missed(ratios(ZOPRO_CPU_ISA="baseline"), floors)
    assert [line.split(" runs")[0] for line in slow][:2] == [
        "rademacher fp32 nearest",
        "gaussian fp32 nearest",
    ]


def test_floors_lie_at_half_of_the_goals_or_below(bench_pass):
    assert len(bench_pass.GOALS) == 7
    for goal in bench_pass.GOALS:
        assert goal.goal / 4 < goal.floor <= goal.goal / 2


@pytest.mark.parametrize("factor, code", ((1.01, 0), (0.9, 1)))
def test_check_exits_with_1_and_a_sentence(bench_pass, monkeypatch, capsys, factor, code):
    goals = {goal.name: factor * goal.goal for goal in bench_pass.GOALS}
    monkeypatch.setattr(bench_pass, "ratio", lambda seconds, name, over: goals.get(name, 1.0))
    command = ["bench_pass.py", "--check", "--numel", "4096", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(bench_pass, "STEADY_SECONDS", 0.0)
    monkeypatch.setattr(bench_pass, "Cases", lambda _: pytest.fail("--check measured for a file"))
    monkeypatch.setattr(bench_pass.torch.cuda, "is_available", lambda: False)
    assert bench_pass.main() == code
    said = capsys.readouterr().out.splitlines()
    if code:
        assert said[-7] == (
            "rademacher fp32 nearest runs at 0.81 times the speed of mul_ fp32; "
            "at least 0.9 is asked for"
        )
    else:
        assert said[-1] == "all goals of speed are met"


def test_a_slip_does_not_decide_the_time_of_a_short_pass(bench_pass):
    slow = iter([0.02, 0.02, 0.3, 0.02])  # the fourth call is not needed
    assert bench_pass.steady(lambda _: next(slow))(lambda: None) == 0.02
    assert len(list(slow)) == 1
    assert bench_pass.steady(lambda call: call())(lambda: 0.5) == 0.5


def test_no_instruction_set_is_slower_than_the_narrowest(bench_pass):
    """CPU times, the least of many calls; the table of them is benchmarks/instruction_sets.py."""
    needs_vectors()
    import instruction_sets

    rows = instruction_sets.compare([1 << 16], 2)
    assert len(rows) == 43 and all(len(r["ns"]) > 1 for r in rows)
    assert instruction_sets.slower(rows, 1.0) == []
    rows[0]["ns"]["avx2"] = 3.0 * rows[0]["ns"]["baseline"]
    assert instruction_sets.slower(rows) == [
        "signs, fp32, 65,536 elements: avx2 takes 3.00 of the time of baseline"
    ]
