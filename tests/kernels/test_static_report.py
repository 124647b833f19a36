"""tools/static_report.py fails where a kernel's figures are worse than allowed."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDED = json.loads((ROOT / "benchmarks/results/static_sm90.json").read_text())["kernels"]
KINDS = sorted({row["kernel"] for row in RECORDED})


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.setattr(sys, "argv", ["static_report.py"])
    import static_report

    return static_report


def row(kernel: str, **changed) -> dict:
    good = {"per_element": 1.0, "registers": 64, "spilled": 0, "code": 100, "forbidden": []}
    good["further_seed"] = None
    return {"backend": "cuda", "kernel": kernel, "dtype": "bf16", **good, **changed}


def test_the_recorded_kernels_pass(report):
    assert len(RECORDED) > 40
    assert [line for found in RECORDED for line in report.judge(found)] == []


@pytest.mark.parametrize("kernel", KINDS)
def test_every_kernel_has_a_ceiling_on_spills(report, kernel):
    ceiling = report.SPILLS.get(kernel, 0)
    assert ceiling <= 32
    assert report.judge(row(kernel, spilled=ceiling)) == []
    (line,) = report.judge(row(kernel, spilled=ceiling + 8))
    assert line == (
        f"cuda {kernel} bf16: {ceiling + 8} bytes of registers spilled, {ceiling} are allowed"
    )


def test_budgets_and_forbidden_instructions(report):
    for kernel, budget in report.BUDGETS.items():
        assert report.judge(row(kernel, per_element=budget)) == []
        assert len(report.judge(row(kernel, per_element=budget + 0.01))) == 1
    assert report.judge(row("many gaussian", forbidden=["fma.rn.f32"])) == [
        "cuda many gaussian bf16 has fma.rn.f32"
    ]


@pytest.mark.parametrize("spilled, code", ((0, 0), (40, 1)))
def test_exit_code(report, monkeypatch, capsys, spilled, code):
    rows = [row("signs"), row("many gaussian stochastic", spilled=spilled)]
    monkeypatch.setattr(report, "cuda_rows", lambda folder: rows)
    monkeypatch.setattr(report, "triton_rows", lambda folder: [])
    assert report.main() == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert ("40 bytes of registers spilled, 0 are allowed" in last) == bool(code)


def test_nothing_checked_fails(report, monkeypatch):
    monkeypatch.setattr(report, "cuda_rows", lambda folder: [])
    monkeypatch.setattr(report, "triton_rows", lambda folder: [])
    assert report.main() == 1
