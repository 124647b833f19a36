"""The model of the GPU kernels' limit: pipes of instructions, and the bounds made of them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def limits(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import limits

    return limits


def row(**changed) -> dict:
    pipes = {"fma": 3.0, "alu": 3.0, "lsu": 0.5, "other": 0.5}
    good = {"backend": "cuda", "kernel": "signs", "dtype": "bf16", "registers": 64}
    return {**good, "pipes": pipes, "further_seed": None, **changed}


def test_pipes_of_instructions(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from sass import pipe

    assert pipe("FADD R57, R58, R57") == pipe("@!P4 IMAD.U32 R16, R15, 0x10000, RZ") == "fma"
    assert pipe("LDG.E.128 R8, desc[UR6][R6.64]") == pipe("SHFL.BFLY PT, R1, R2") == "lsu"
    assert pipe("FSEL R57, R43, -R43, !P0") == pipe("R2P PR, R56, 0x7e") == "alu"
    assert pipe("@P0 BRA `(.L_x_66)") == pipe("UMOV UR4, 0x400") == "other"


def test_a_short_pass_is_bound_by_memory(limits):
    for device in limits.DEVICES:
        found = limits.bound(device, row(), 1)
        assert found["predicted_share"] == 1.0
        assert found["memory_ps"] == pytest.approx(4e12 / (0.9 * device.bytes_per_s))


def test_a_long_pass_is_bound_by_the_slowest_pipe(limits):
    h100 = limits.DEVICES[1]
    assert h100.clock == pytest.approx(1.98e9, rel=0.01)
    long = row(pipes={"fma": 10.0, "alu": 60.0, "lsu": 0.0, "other": 0.0})
    found = limits.bound(h100, long, 1)
    assert found["slowest_pipe"] == "alu"  # 60 / 64 clocks against 70 / 128
    assert found["predicted_share"] == pytest.approx(found["memory_ps"] / found["issue_ps"])


def test_seeds_add_their_loop(limits):
    many = row(kernel="many signs", further_seed={"fma": 1.0, "alu": 1.5, "lsu": 0.1, "other": 0.0})
    assert limits.issued(many, 8) == pytest.approx(
        {"fma": 10.0, "alu": 13.5, "lsu": 1.2, "other": 0.5}
    )


def test_registers_bound_the_loads_in_flight(limits):
    assert limits.resident_warps(row()) == 32
    assert limits.resident_warps(row(registers=77)) == 24
    assert limits.resident_warps(row(kernel="many signs", registers=255)) == 8
    starved = limits.bound(limits.DEVICES[2], row(registers=255), 1)
    assert starved["bytes_in_flight"] == 8 * 32 * 32 * 2
    assert starved["predicted_share"] == pytest.approx(
        starved["bytes_in_flight"] / starved["bytes_needed"]
    )
