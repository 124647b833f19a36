"""Runs whose step logs are damaged by fuzz_log.py: a log with records of every kind each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zopro import StepLog, ZOPrO
from zopro.steplog import Log, read_log

STEPS = (4, 8)  # of the process that begins the log, of the one that goes on
RUNS = {
    "inplace": dict(restore="inplace", dtype=torch.float32, storage="fp32"),
    "exact": dict(restore="exact", dtype=torch.bfloat16, storage="int8", num_directions=2),
    "lookahead": dict(lookahead=True, dtype=torch.float32, storage="bf16"),
}


@dataclass
class Subject:
    """A run: its log's bytes, in `pieces` (head, records) too, what they say, the weights that it
    began with and those after n steps."""

    data: bytes
    log: Log
    base: list[Tensor]
    weights: dict[int, list[Tensor]]

    def __post_init__(self) -> None:
        ends = [0, self.log.begin, *self.log.ends]
        self.pieces = [self.data[a:b] for a, b in itertools.pairwise(ends)]


def trained(path: Path, steps: int, dtype: torch.dtype, storage: str, **options) -> list[Tensor]:
    """The weights after `steps` steps, all that a log has to tell among them; its log at `path`."""
    params = [torch.nn.Parameter(torch.ones(n, dtype=dtype)) for n in (3, 2)]
    opt = ZOPrO([{"params": [p]} for p in params], eps=1e-2, **options)

    def loss() -> Tensor:
        return sum(p.float().square().sum() for p in params)

    for part, end in enumerate(STEPS):
        if opt.step_count == steps:
            break
        with StepLog(path, opt, frozen={"rest": torch.ones(2)}):
            for i in range(opt.step_count, min(end, steps)):
                if i == STEPS[0] * part + part:
                    opt.set_targets([torch.ones(3), torch.ones(2)], steps=9, storage=storage)
                if i % 4 == 2:
                    with opt.perturbed(0.5):
                        pass
                    opt.param_groups[1]["lr"] = 1e-3 / (1 + part)
                if i == 5:
                    opt.estimate(loss)
                # A loss that is not finite, whose slope is equal to itself.
                more = iter([float("inf")] if i == 6 else [])
                opt.step(lambda more=more: next(more, 0.0) + loss())
    return [p.detach().clone() for p in params]


def subjects(folder: Path) -> dict[str, Subject]:
    """Of each run, made in a folder of its own."""
    found = {}
    for name, options in RUNS.items():
        weights = {
            n: trained(folder / name / str(n) / "steps.zolog", n, **options)
            for n in range(STEPS[-1] + 1)
        }
        log = read_log(folder / name / str(STEPS[-1]) / "steps.zolog")
        assert log.cut is None and log.steps == STEPS[-1]
        found[name] = Subject(log.path.read_bytes(), log, weights[0], weights)
    return found
