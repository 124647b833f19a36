"""Weights of two small networks that move in known ways, and a run's sketches of them."""

from __future__ import annotations

import torch

from zopro.analysis import SketchWriter

LAYERS, RANK, WIDTH = 3, 4, 96
Weights = dict[str, torch.Tensor]


def network(prefix: str, adapter: str, seed: int, rank: int = RANK) -> Weights:
    """A LoRA adapter's tensors under the names that PEFT gives them."""
    g = torch.Generator().manual_seed(seed)
    shapes = {"A": (rank, WIDTH), "B": (WIDTH, rank)}
    return {
        f"{prefix}layers.{i}.self_attn.{m}.lora_{ab}.{adapter}weight": torch.randn(s, generator=g)
        for i in range(LAYERS)
        for m in ("q_proj", "v_proj")
        for ab, s in shapes.items()
    }


def policy(seed: int = 0, **options) -> Weights:
    return network("base_model.model.model.", "default.", seed, **options)


def reward(seed: int = 1, **options) -> Weights:
    """With a head of its own, as a sequence classifier has."""
    head = {"score.weight": torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(9))}
    return network("trunk.", "reward.", seed, **options) | head


def move(weights: Weights, along: torch.Tensor, size: float) -> None:
    """weights += size along, whose elements follow each other through the tensors but the head."""
    at = 0
    for name, t in weights.items():
        if not name.startswith("score"):
            t += size * along[at : at + t.numel()].view(t.shape)
            at += t.numel()


def direction(seed: int) -> torch.Tensor:
    numel = sum(t.numel() for t in policy().values())
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed))


def write_run(folder, iterations: int = 3, keep: dict | None = None, **options) -> None:
    """A run: iterations of two policy snapshots and two of the reward model after a beginning.

    keep: a list of copies of the weights a network and snapshot, in the order of writing.
    """
    writer = SketchWriter(folder, **options)
    p, r = policy(), reward()
    common = direction(1000)

    def add(name: str, weights: Weights, phase: str, step: int) -> None:
        writer.add(name, weights, phase, step)
        if keep is not None:
            kept = {n: t.clone() for n, t in weights.items()}
            keep.setdefault(name, []).append((phase, kept))

    add("reward", r, "reward", 0)
    move(r, direction(50), 0.1)
    add("reward", r, "reward", 10)
    for i in range(iterations):
        for name, weights, phase in (("policy", p, "policy"), ("reward", r, "refine")):
            add(name, weights, f"{i}.{phase}", 0)
            for step in (10, 20):
                move(weights, direction(100 * i + step + (name == "reward")), 0.1)
                move(weights, common, 0.05)
                add(name, weights, f"{i}.{phase}", step)
