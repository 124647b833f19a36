"""A run's folder as `zopro train` leaves it, made in milliseconds from a seed."""

import json
import math
import random

import torch
import yaml

from zopro.analysis import SketchWriter

EVIL = '</script><script>window.evil = 1</script><img src=x onerror="window.evil = 2">\u2028&amp;'


def make_run(folder, seed=0, method="zopro", steps=10, sketches=True, **options):
    """Two iterations with a reward model; writes and returns `folder`."""
    folder.mkdir(parents=True)
    options = {"method": method, "first": "rloo", "seed": seed, "iterations": 2, "lora_r": 2,
               "max_completion_length": 8, "output_dir": str(folder), "model": "tiny",
               **options}  # fmt: skip
    write(folder / "config.json", json.dumps({"options": options, "data": {}, "versions": {}}))
    flags = {"task": "translation", "rewards": None, "judge": "task"}
    write(folder / "config.yaml", yaml.safe_dump({**flags, **options}))
    start = {"command": "zopro train --task translation", "started": "2026-01-02T03:04:05+0000",
             "commit": "abc", "versions": {"torch": "2.13.0"}, "machine": "Linux"}  # fmt: skip
    write(folder / "runs.jsonl", json.dumps(start) + "\n")
    phases = ["start", "reward", "0.policy", "0.refine", "1.policy", "1.refine"]
    write(folder / "state.json", json.dumps({"done": phases, "phase": None}))
    rng = random.Random(seed)
    for i, phase in enumerate(phases[1:]):
        for step in range(1, steps + 1):
            log(folder, phase, step, row(rng, phase, step, 1000.0 * i + 2.0 * step))
    sample(folder, "0.policy", 1, "w1 <b>bold</b>", EVIL)
    sample(folder, "1.policy", steps, "w1 <b>bold</b>", "good cat")
    if sketches:
        sketch(folder, seed, phases[1:], steps)
    return folder


def write(path, text):
    path.write_text(text, encoding="utf-8")


def row(rng, phase, step, seconds):
    """What a trainer logs, the kinds that the report reads."""
    if "policy" not in phase:
        return {"loss": 0.7 - 0.01 * step, "accuracy": 0.5 + 0.02 * step, "seconds": seconds}
    values = {"loss": rng.gauss(0, 1e-3), "reward": 0.1 * step + rng.gauss(0, 0.05),
              "kl": 0.01 * step, "completions/mean_length": 5.0 + rng.random(),
              "grad_norm": math.exp(rng.gauss(0, 1)), "num_tokens": 100.0 * step,
              "seconds": seconds}  # fmt: skip
    if phase.startswith("1"):
        values |= {"zo_eps": 1e-3, "zo_d": 1 - step / 20, "zo_loss_change": 1e-3 * rng.random()}
        values |= {"zo_loss_noise": 1e-5} if step == 1 else {}
    return values


def log(folder, phase, step, values):
    """Appends a line to metrics.jsonl."""
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"phase": phase, "step": step, **values}) + "\n")


def sample(folder, phase, step, prompt, completion):
    """Appends a line to samples.jsonl."""
    held = {"prompt": prompt, "completion": completion, "rewards": {"chrf": 0.25}}
    with open(folder / "samples.jsonl", "a") as file:
        file.write(json.dumps({"phase": phase, "step": step, **held}) + "\n")


def sketch(folder, seed, phases, steps, count=3):
    """Snapshots of two layers that wander, the reward model's in its own phases."""
    torch.manual_seed(seed)
    writer = SketchWriter(folder, dim=512, layer_dim=256)
    networks = {
        name: {f"model.layers.{k}.q.weight": torch.randn(8, 16) for k in range(2)}
        for name in ("policy", "reward")
    }
    for phase in phases:
        name = "policy" if "policy" in phase else "reward"
        for k in range(count + 1):
            writer.add(name, networks[name], phase, k * steps // count)
            for tensor in networks[name].values():
                tensor += 0.1 * torch.randn_like(tensor)
