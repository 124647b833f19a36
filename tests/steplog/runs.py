"""Small training runs with a step log, for the tests of the log and its replay."""

import math

import torch
from optimizer.helpers import copies, parameters, quadratic

from zopro import StepLog, ZOPrO

SHAPES = ((5, 3), (7,), (2, 2, 2))


class Run:
    """`steps` steps that leave out nothing the log has to tell; `weights[n]`: after n steps.
    targeted: whether, or the form to store the targets in."""

    def __init__(self, folder, dtype=torch.float32, targeted=False, steps=200, name="steps.zolog",
                 **options):  # fmt: skip
        self.path, self.steps = folder / name, steps
        self.params = parameters(*SHAPES, dtype=dtype)
        self.base, self.weights = copies(self.params), {}
        groups = [
            {"params": self.params[:2], "weight_decay": 0.1},
            {"params": self.params[2:], "eps": 2e-2},
        ]
        self.opt = ZOPrO(groups, **{"lr": 1e-2, "eps": 1e-2, "seed": 2**63 + 5, **options})
        self.loss = quadratic(self.params)
        if targeted:
            generator = torch.Generator().manual_seed(3)
            update = [torch.randn(p.shape, generator=generator) for p in self.params]
            reward = [update[0].flip(0), None, update[2].flip(0)]
            storage = "fp32" if targeted is True else targeted
            self.opt.set_targets(update, reward, steps=steps, storage=storage)

    def train(self):
        with StepLog(self.path, self.opt):
            for i in range(self.opt.step_count, self.steps):
                self.step(i)
        return self

    def step(self, i):
        opt = self.opt
        for group in opt.param_groups:
            group["lr"] = 1e-2 * (1 + math.cos(i / self.steps))
        if i % 50 == 10:
            opt.param_groups[1]["lr"] = 3e-3  # another than the first group's
        if i % 50 == 20:
            opt.param_groups[0]["eps"] = 1.5e-2
        if i % 40 == 7:
            opt.step(lambda: float("nan"))  # skipped
        elif i % 4 == 0:
            opt.step(self.loss)
        elif i % 4 == 1:  # accumulated
            opt.estimate(self.loss)
            opt.estimate(self.loss)
            opt.step()
        elif i % 4 == 2:
            opt.estimate(self.loss)
            opt.step(self.loss)
        else:  # passes out of the ordinary
            with opt.perturbed(0.3):
                pass
            opt.step(self.loss)
        if i == self.steps // 2:
            opt.clear_targets()
        self.weights[i + 1] = copies(self.params)
        if i % 60 == 30:  # in place it leaves its roundings
            with opt.perturbed(-1.0):
                pass
            opt.state_dict()
