"""What targets stored in fewer bits cost: direction, bytes, time of a pass, and learning.

    python benchmarks/target_storage.py [--steps 8] [--held-out 200]

Real updates of the demo's model: a short phase of plain SPSA and one of first-order RLOO, of its
last norm and of all its weights; each is the other's v. Recorded for fp32, bf16, int8 and (as fp32
tensors, of the idea alone) signs with the mean magnitude of each 256 elements:

  the cosine of z with that of fp32 targets, under the same noise, and of z's terms d prev and p;
  the CPU time of a targeted pass in one thread, best of several, and its bytes an element;
  the held-out reward after a targeted phase, from the same seed and previous update.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from harness import RESULTS, record
from learning_judge import Judge
from learning_run import BASE, load_model, trainable, trainer_of
from transformers import AutoTokenizer, TrainerCallback

import zopro_kernels as zk
from zopro import ZOPrO
from zopro.tasks import get_task

FORMS = {"fp32": 4.0, "bf16": 2.0, "int8": 1 + 4 / 256}  # bytes of an element of prev or v
RATES = {("spsa", "last_norm"): 1.0, ("rloo", "last_norm"): 0.03, ("spsa", "all"): 1e-4,
         ("rloo", "all"): 1e-4}  # fmt: skip
EPS = {"last_norm": 0.02, "all": 1e-3}

Tensors = dict[str, torch.Tensor]


class Silent(TrainerCallback):
    """What trainer_of asks of a callback: how many phases there were, for the seed."""

    def __init__(self, phase: int) -> None:
        self.judge = argparse.Namespace(starts=[0] * phase)


def train(model: Any, s: dict[str, Any], steps: int, prev: Tensors | None = None,
          storage: str = "fp32", phase: int = 0) -> Tensors:  # fmt: skip
    """The update of one phase of `steps` steps."""
    task, tokenizer = get_task(s["task"]), AutoTokenizer.from_pretrained(s["model"])
    rows = task.fit(task.load("train"), tokenizer, s["prompt_tokens"])
    before = {n: p.detach().clone() for n, p in trainable(model).items()}
    trainer = trainer_of(model, s, tokenizer, rows, [Silent(phase)], s["lr"], steps)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.args.zo_target_storage = storage
    if prev is not None:
        trainer.set_targets(prev)
    trainer.train()
    return {n: p.detach() - before[n] for n, p in trainable(model).items()}


def settings(method: str, part: str, seed: int = 0) -> dict[str, Any]:
    return {**BASE, "method": method, "train": part, "lr": RATES[method, part], "eps": EPS[part],
            "seed": seed}  # fmt: skip


def signs(x: torch.Tensor) -> torch.Tensor:
    """Signs with the mean magnitude of each block of 256, as fp32."""
    blocks = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % 256)).view(-1, 256)
    counts = torch.full((len(blocks), 1), 256.0)
    counts[-1] -= blocks.numel() - x.numel()
    scaled = blocks.sign() * blocks.abs().sum(1, keepdim=True) / counts
    return scaled.flatten()[: x.numel()].view(x.shape)


def direction(prev: list, v: list, d: float, storage: str) -> torch.Tensor:
    """z, flat, of the first step's noise, from weights of 0."""
    if storage == "signs":
        prev, v, storage = [signs(x) for x in prev], [signs(x) for x in v], "fp32"
    params = [torch.nn.Parameter(torch.zeros_like(x)) for x in prev]
    opt = ZOPrO(params, lr=0.0, eps=1.0)
    opt.set_targets(prev, v, schedule=lambda *_: d, storage=storage)
    with opt.perturbed(1):
        return torch.cat([p.detach().flatten() for p in params]).double()


def cosines(updates: dict[tuple[str, str], Tensors]) -> list[dict[str, Any]]:
    out = []
    for (method, part), update in updates.items():
        other = updates["rloo" if method == "spsa" else "spsa", part]
        kept = [n for n in update if update[n].any()]
        prev, v = [update[n] for n in kept], [other[n] for n in kept]
        for d in (0.999, 0.5):
            exact = direction(prev, v, d, "fp32")
            for storage in (*FORMS, "signs"):
                z = direction(prev, v, d, storage)
                out.append({"update": method, "trained": part, "numbers": len(z), "d": d,
                            "storage": storage,
                            "cosine": float(z @ exact / z.norm() / exact.norm())})  # fmt: skip
    return out


def stored(x: torch.Tensor, form: str) -> torch.Tensor | zk.Int8Blocks:
    if form == "int8":
        return zk.quantise(x)
    return x.bfloat16() if form == "bf16" else x


def times(numel: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of this thread for a pass with signs; forms take turns."""
    torch.manual_seed(0)
    out = []
    for dtype in (torch.float32, torch.bfloat16):
        theta = torch.randn(numel).to(dtype)
        given = [torch.randn(numel) for _ in range(2)]
        sets = {}
        for form in FORMS:
            prev, v = ([stored(x, form)] for x in given)
            sets[form] = zk.TensorSet([theta], prev=prev, v=v)
        best = dict.fromkeys(FORMS, float("inf"))
        for _ in range(rounds):
            for form, prepared in sets.items():
                begun = time.thread_time()
                zk.add_noise_(prepared, [1], [1e-4], prev_coeffs=1e-4, v_coeffs=1e-4)
                best[form] = min(best[form], time.thread_time() - begun)
        own = 2 * theta.element_size()
        name = str(dtype).removeprefix("torch.")
        out += [{"dtype": name, "storage": form, "elements": numel, "bytes": own + 2 * FORMS[form],
                 "seconds": seconds} for form, seconds in best.items()]  # fmt: skip
    return out


def learning(seeds: int, steps: int, held_out: int) -> Iterator[dict[str, Any]]:
    """Held-out reward after a plain phase, then after a targeted one with each storage."""
    for seed in range(seeds):
        s = {**settings("spsa", "last_norm", seed), "held_out": held_out}
        model = load_model(s)
        tokenizer = AutoTokenizer.from_pretrained(s["model"])
        judge = Judge(model, tokenizer, get_task(s["task"]), s)
        start = judge.evaluate(1000 + seed)[0].mean().item()
        prev = train(model, s, steps)
        reached = {n: p.detach().clone() for n, p in trainable(model).items()}
        for storage in FORMS:
            for n, p in trainable(model).items():
                p.data.copy_(reached[n])
            train(model, s, steps, prev, storage, phase=1)
            reward = judge.evaluate(1000 + seed)[0]
            yield {"seed": seed, "storage": storage, "start": start,
                   "reward": reward.mean().item(),
                   "error": (reward.std() / len(reward) ** 0.5).item()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8, help="of a phase; a rollout has 8")
    parser.add_argument("--held-out", type=int, default=200, help="prompts")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--numel", type=int, default=1 << 23, help="of the timed pass")
    parser.add_argument("--rounds", type=int, default=15, help="of the timed pass")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    timed = times(args.numel, args.rounds)
    updates = {}
    for method, part in RATES:
        s = settings(method, part)
        updates[method, part] = train(load_model(s), s, 8)
    found = {"times": timed, "cosines": cosines(updates), "steps": args.steps,
             "held_out": args.held_out, "learning": []}  # fmt: skip
    record(RESULTS / "target_storage.json", found)
    for row in learning(args.seeds, args.steps, args.held_out):
        found["learning"].append(row)
        record(RESULTS / "target_storage.json", found)


if __name__ == "__main__":
    main()
