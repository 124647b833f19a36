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
def test_no_kernel_may_spill(report, kernel):
    assert report.judge(row(kernel)) == []
    (line,) = report.judge(row(kernel, spilled=8))
    assert line == f"cuda {kernel} bf16: 8 bytes of registers spilled, 0 are allowed"


@pytest.mark.parametrize(
    "name, kind",
    (
        ("add_noise_kernelINS1_4FormINS0_4bf16ELb0ELb1ELNS0_4KindE2EfEEEEvNS0_9ArgumentsE",
         ("many signs stochastic", "bf16")),
        ("add_noise_kernelINS0_4FormIfLb1ELb0ELNS0_4KindE1EaEEEEvNS0_9ArgumentsE",
         ("targeted gaussian kept int8", "fp32")),
        ("sequence_kernelINS1_12SequenceFormIfLb0ELb0EaEEEEvNS0_9ArgumentsE",
         ("sequence of signs kept int8", "fp32")),
        ("sequence_kernelINS1_12SequenceFormINS0_4bf16ELb1ELb1ES4_EEEEvNS0_9ArgumentsE",
         ("sequence of gaussian kept bf16 stochastic", "bf16")),
    ),
)  # fmt: skip
def test_kernels_are_told_by_their_mangled_names(report, name, kind):
    assert report.describe_cuda(name) == kind


def test_elements_of_8_bits_are_told_from_descriptors(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from sass import Block, _moved

    descriptors = Block(code=["LDG.E.64 R2, desc[UR4][R2.64]"] * 3)
    rows = Block(code=["LDG.E.64 R8, desc[UR4][R6.64]", "LDG.E R5, desc[UR4][R4.64]",
                       *["F2I.S64.TRUNC R10, R9"] * 8])  # fmt: skip
    masked = Block(code=["LDG.E.64 R8, desc[UR4][R6.64]", *["F2I.S64.TRUNC R10, R9"] * 128])
    twice = Block(code=["LDG.E.64 R8, desc[UR4][R6.64]", *["F2I.S64.TRUNC R10, R9"] * 16])
    assert _moved([descriptors, rows, masked, twice]) == [0, 8, 0, 8]
    with pytest.raises(ValueError, match="no wide access"):
        _moved([descriptors])


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
