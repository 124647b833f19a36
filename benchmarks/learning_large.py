"""Tuning runs of the learning benchmark for a model of 135 M parameters (SmolLM2) on a GPU.

Six runs a method: the last norm (576 numbers) and LoRA of rank 16 (4.9 M), rates around those that
trained.py's rules come to there (zeroth order: a scale over the count of trained numbers, 0.17 and
2e-6) and that are usual of first order. `learning.py tune --large` takes them.
"""

from __future__ import annotations

from typing import Any

NORM, LORA = {"train": "last_norm", "eps": 0.05}, {"train": "lora", "eps": 0.001}
FIRST = {"first": "rloo"}

LARGE: dict[str, list[dict[str, Any]]] = {
    "rloo": [
        {"train": "lora", "lr": 3e-5},
        {"train": "lora", "lr": 1e-4},
        {"train": "lora", "lr": 3e-4},
        {"train": "lora", "lr": 1e-3},
        {"train": "last_norm", "lr": 0.03},
        {"train": "last_norm", "lr": 0.1},
    ],
    "spsa": [
        {**NORM, "lr": 0.06},
        {**NORM, "lr": 0.17},
        {**NORM, "lr": 0.5},
        {**LORA, "lr": 2e-6},
        {**LORA, "lr": 6e-6},
        {**LORA, "lr": 2e-5},
    ],
    "zopro": [
        {**NORM, "lr": 0.06},
        {**NORM, "lr": 0.17},
        {**NORM, "lr": 0.5},
        {**LORA, "lr": 2e-6},
        {**LORA, "lr": 6e-6},
        {**LORA, "lr": 2e-5},
    ],
    "zopro_first_order": [
        {**FIRST, **NORM, "first_lr": 0.03, "lr": 0.17},
        {**FIRST, **NORM, "first_lr": 0.1, "lr": 0.06},
        {**FIRST, **NORM, "first_lr": 0.1, "lr": 0.17},
        {**FIRST, **LORA, "first_lr": 1e-4, "lr": 2e-6},
        {**FIRST, **LORA, "first_lr": 3e-4, "lr": 2e-6},
        {**FIRST, **LORA, "first_lr": 3e-4, "lr": 6e-6},
    ],
}
