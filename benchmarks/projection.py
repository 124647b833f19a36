"""Does it matter that the noise is made orthogonal to the reward model's update?

    python benchmarks/projection.py [--seeds 3]

The whole method on the demo's model (reward model, judge, refinement, two iterations, LoRA) with
`project` and without, from the same seeds, through `zopro train` and `zopro eval`. Recorded: the
held-out reward of both, how far apart the policies end, and the share of ||n||^2 that lies along v,
which is what the projection takes away (1 / numel in expectation, by tensor).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, record
from safetensors.torch import load_file

import zopro_kernels as zk

MODEL = Path(__file__).parents[1] / "examples/translation/start"
FLAGS = {
    "task": "translation", "model": MODEL, "method": "zopro", "first": "spsa", "iterations": 2,
    "lora_r": 8, "lora_alpha": 16, "limit": 64, "max_steps": 8, "num_generations": 8,
    "per_device_train_batch_size": 32, "max_completion_length": 20, "max_prompt_length": 64,
    "zo_num_directions": 4, "zo_estimator": "one_sided",
}  # fmt: skip


def zopro(*arguments: Any) -> None:
    command = [sys.executable, "-m", "zopro.cli", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}")


def run(folder: Path, seed: int, project: bool, limit: int) -> dict[str, Any]:
    """One run: held-out reward, the policy's weights, the share of the noise along v."""
    flags = [x for name, value in FLAGS.items() for x in (f"--{name}", value)]
    zopro("train", *flags, "--seed", seed, "--project", project, "--output_dir", folder)
    out = folder / "eval.json"
    zopro("eval", "--task", FLAGS["task"], "--model", MODEL, "--adapter", folder / "policy",
          "--temperature", 1.0, "--split", "validation", "--limit", limit, "--output", out,
          "--max_completion_length", 20, "--batch_size", 128)  # fmt: skip
    reward = json.loads(out.read_text())["metrics"]["model"]["reward"]
    phases = folder / "phases"
    update = load_file(phases / "0.updates" / "reward.safetensors")
    v = [t / t.norm() for t in update.values() if t.any()]
    dots = zk.noise_dots(v, seed)
    return {
        "seed": seed, "project": project, "reward": reward,
        "share_along_v": (dots[:, 0] ** 2 / dots[:, 1]).mean().item(),
        "expected_share": sum(1 / t.numel() for t in v) / len(v),
        "weights": load_file(phases / "1.policy" / "policy.safetensors"),
        "start": load_file(phases / "0.policy" / "policy.safetensors"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=400, help="held-out prompts")
    args = parser.parse_args()
    runs = []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            pair = [run(Path(scratch) / str(p), seed, p, args.prompts) for p in (True, False)]
        weights = [{n: t - r["start"][n] for n, t in r["weights"].items()} for r in pair]
        a, b = (torch.cat([t.flatten() for t in w.values()]) for w in weights)
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=0).item()
        for r in pair:
            runs.append({k: v for k, v in r.items() if k not in ("weights", "start")})
            runs[-1]["cosine_of_updates"] = cosine
            print(runs[-1], flush=True)
        flags = {k: v for k, v in FLAGS.items() if k != "model"}
        record(RESULTS / "projection.json", {"flags": flags, "runs": runs})


if __name__ == "__main__":
    main()
