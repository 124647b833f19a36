"""Is the previous update still a good direction, once the phase that made it is over?

    python benchmarks/previous_update.py [--seconds 50] [--batches 5]

A phase (plain SPSA, or first-order RLOO, each at its tuned settings) trains the last norm; then the
exact gradient of the same objective is taken there on fresh rollouts, several independent batches.
Recorded: the cosine of the phase's update with the descent direction. Noise in the batches' mean
gradient would shrink it, so ||gradient||^2 is estimated from products of different batches. Chance
is 1 / sqrt(numbers trained).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from harness import RESULTS, record
from learning import best
from learning_judge import Judge
from learning_meters import Meter
from learning_run import BASE, Curve, load_model, trainable, trainer_of
from transformers import AutoTokenizer, TrainerCallback

from zopro.tasks import get_task


class Gradients(TrainerCallback):
    """Keeps each step's gradient of the trained numbers, fp32 [D]."""

    def __init__(self, model: Any) -> None:
        self.model, self.kept = model, []
        self.judge = argparse.Namespace(starts=[0])  # for the trainer's seed

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.kept.append(torch.cat([p.grad.flatten() for p in trainable(self.model).values()]))


def gradients(model: Any, s: dict[str, Any], tokenizer: Any, rows: Any, count: int) -> torch.Tensor:
    """[count, D] of independent rollouts, at the weights as they are."""
    s = {**s, "method": "rloo", "sweeps": 1, "batch": s["prompts"] * s["responses"],
         "seed": s["seed"] + 77}  # fmt: skip
    keep = Gradients(model)
    trainer = trainer_of(model, s, tokenizer, rows, [keep], 0.0, count)
    trainer.args.max_grad_norm = 0.0
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return torch.stack(keep.kept)


def measure(s: dict[str, Any], count: int) -> dict[str, Any]:
    """Trains by `s`; the update's cosine with minus the gradient where it ends."""
    task, tokenizer = get_task(s["task"]), AutoTokenizer.from_pretrained(s["model"])
    model = load_model(s)
    rows = task.fit(task.load("train"), tokenizer, s["prompt_tokens"])
    before = {n: p.detach().clone() for n, p in trainable(model).items()}
    meter = Meter(torch.device("cpu"))
    curve = Curve(meter, Judge(model, tokenizer, task, {**s, "held_out": 8}), s, s["seconds"])
    curve.judge.starts = [0]
    trainer = trainer_of(model, s, tokenizer, rows, [curve], s["lr"], 10**6)
    trainer.remove_callback(transformers.PrinterCallback)
    meter.attach(trainer)
    with meter.phase("other"):
        trainer.train()
    update = torch.cat([(p.detach() - before[n]).flatten() for n, p in trainable(model).items()])
    g = gradients(model, s, tokenizer, rows, count)
    products = [float(a @ b) for a, b in itertools.combinations(g, 2)]
    squared = sum(products) / len(products)  # of the gradient's norm, without the noise's share
    along = -(g @ update) / update.norm()
    error = float(along.std() / count**0.5)
    norm = max(squared, 0.0) ** 0.5
    return {
        "method": s["method"], "seed": s["seed"], "steps": trainer.state.global_step,
        "trained": update.numel(), "moved": float(update.norm()), "slope_along_update":
        float(along.mean()), "slope_error": error, "gradient_norm": norm,
        "noise_norm": float((g - g.mean(0)).norm() / (count - 1) ** 0.5),
        "cosine": float(along.mean()) / norm if norm else None,
        "cosine_error": error / norm if norm else None, "chance": update.numel() ** -0.5,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=50.0, help="of the phase")
    parser.add_argument("--batches", type=int, default=5, help="of 256 responses, for the gradient")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tuned = best(json.loads((RESULTS / "learning_tune_cpu.json").read_text())["runs"])
    found = []
    for seed in range(args.seeds):
        for method in ("spsa", "rloo"):
            s = {**BASE, **tuned[method], "seconds": args.seconds, "seed": seed}
            found.append(measure(s, args.batches))
            print(found[-1], flush=True)
            record(RESULTS / "previous_update.json", {"seconds": args.seconds, "phases": found})


if __name__ == "__main__":
    main()
