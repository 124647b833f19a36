"""The measures of `zopro.analysis` on a small run's exact weights and on its sketches.

    python benchmarks/sketch_measures.py

Three iterations (SPSA, then ZOPrO) on the demo's translation start with a reward network, LoRA on
both, in a temporary folder; all weights of each snapshot are kept beside its sketch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import RESULTS, record

from zopro.analysis import SketchWriter, Tracks, measure, read_sketches, scores
from zopro.analysis.names import HEAD, canonical, layer_of

ROOT = Path(__file__).resolve().parents[1]
START = ROOT / "examples/translation/start"


def trained(folder: Path, steps: int) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Trains, and returns copies of each network's weights at each snapshot, in order."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from zopro.iterations import IterationConfig, iterate

    kept: dict[str, list[dict[str, torch.Tensor]]] = {}
    write = SketchWriter.add

    def add(self, network, weights, phase, step):
        copy = {canonical(n): p.detach().float().clone() for n, p in weights.items()}
        kept.setdefault(network, []).append(copy)
        return write(self, network, weights, phase, step)

    words = [
        "house",
        "water",
        "the red book",
        "my friend",
        "a long way",
        "good morning",
        "he sleeps",
    ]
    prompts = [{"prompt": f"{a} {b}"} for a in words for b in words]
    pairs = [{"prompt": p["prompt"], "chosen": " gut", "rejected": " schlecht oder nicht"}
             for p in prompts]  # fmt: skip
    config = IterationConfig(
        str(folder), iterations=3, first="spsa", lora_r=8, lora_alpha=16, max_prompt_length=32,
        max_completion_length=8, sketch_every=steps // 4, policy={"num_generations": 2},
        trainer={"use_cpu": True, "max_steps": steps, "per_device_train_batch_size": 4,
                 "disable_tqdm": True},
        reward={"learning_rate": 1e-3}, refine={"learning_rate": 1e-3},
    )  # fmt: skip
    SketchWriter.add = add
    try:
        iterate(
            config,
            {"prompts": Dataset.from_list(prompts), "reward": Dataset.from_list(pairs)},
            judge=lambda p, firsts, seconds: [int(b < a) for a, b in zip(firsts, seconds)],
            model=AutoModelForCausalLM.from_pretrained(START, dtype=torch.float32),
            tokenizer=AutoTokenizer.from_pretrained(START),
        )
    finally:
        SketchWriter.add = write
    return kept


def exact(tracks: Tracks, kept: dict[str, list[dict[str, torch.Tensor]]]) -> Tracks:
    """The same tracks with the weights themselves for sketches: of the whole, or of one layer."""

    def rows(copies: list[dict[str, torch.Tensor]], layer: str | None) -> np.ndarray:
        names = [
            n for n in copies[0] if layer_of(n) == layer or (not layer and layer_of(n) != HEAD)
        ]
        flat = [torch.cat([c[n].flatten() for n in sorted(names)]).double().numpy() for c in copies]
        return np.stack(flat) - flat[0]

    networks = {}
    for name, track in tracks.networks.items():
        layers = [rows(kept[name], layer) for layer in track.layers]
        widest = max(x.shape[1] for x in layers)
        padded = np.stack([np.pad(x, ((0, 0), (0, widest - x.shape[1]))) for x in layers], axis=1)
        whole = rows(kept[name], None)
        networks[name] = replace(track, whole=whole, by_layer=padded)
    return Tracks(tracks.source, networks, tracks.dim, tracks.layer_dim)


def compared(tracks: Tracks, true: Tracks) -> list[dict[str, Any]]:
    rows = []
    for layer in (None, *(name for name in tracks.layers if name != HEAD)):
        for ours, theirs in zip(measure(tracks, layer), measure(true, layer), strict=True):
            off = np.abs(ours.values - theirs.values)
            rows.append({
                "name": ours.name, "layer": layer, "values": len(off),
                "exact": float(theirs.values.mean()), "sketched": float(ours.values.mean()),
                "chance": ours.chance, "high": ours.high, "greatest_off": float(off.max()),
                "stated": float(ours.error.max()),
                "greatest_over_stated": float((off / ours.error).max()),
            })  # fmt: skip
    for ours, theirs in zip(scores(tracks), scores(true), strict=True):
        rows.append({
            "name": ours.name, "layer": None, "values": 1, "exact": theirs.value,
            "sketched": ours.value, "chance": ours.chance, "high": ours.high, "low": ours.low,
            "greatest_off": abs(ours.value - theirs.value),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="of each phase")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = trained(Path(folder) / "run", args.steps)
        tracks = read_sketches(Path(folder) / "run")
        size = sum(p.stat().st_size for p in (Path(folder) / "run/sketches").iterdir())
    rows = compared(tracks, exact(tracks, kept))
    numels = {name: track.numel() for name, track in tracks.networks.items()}
    record(RESULTS / "sketch_measures.json", {
        "steps": args.steps, "rows": rows, "elements": numels, "dim": tracks.dim,
        "layer_dim": tracks.layer_dim, "bytes": size,
        "snapshots": {name: len(track) for name, track in tracks.networks.items()},
        "exact_bytes": sum(4 * numels[name] * len(t) for name, t in tracks.networks.items()),
    })  # fmt: skip
    for row in rows:
        if row["layer"] is None:
            print(row, file=sys.stderr)


if __name__ == "__main__":
    main()
