"""A reward model that the run is given: the adapter and head that `zopro reward` leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .config import IterationConfig
from .models import REWARD, RewardModel

# What changes the function that an adapter's tensors stand for, and the run's adapters have not.
VARIANTS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias")


def read_reward(folder: str, config: IterationConfig, reward: RewardModel) -> dict[str, Tensor]:
    """The tensors in a folder of a LoRA sequence classifier (PEFT's format), by `reward.own()`'s
    names.

    reward: the run's own reward model, whose shapes they must have; nothing is written to it.
    Raises ValueError for a folder that holds none, or one of another rank, alpha or model.
    """
    path = Path(folder)
    made = _adapter_config(path)
    rank, alpha = config.reward_lora_r or config.lora_r, config.lora_alpha
    for name, held, run in (("lora_r", made.get("r"), rank), ("lora_alpha", made.get("lora_alpha"),
                                                             alpha)):  # fmt: skip
        if held != run:
            raise ValueError(
                f"reward_model={folder!r} has {name}={held}, and this run {run}: give the run "
                f"{name}={held}, or train the reward model with {name}={run}"
            )
    for name in VARIANTS:
        if made.get(name):
            raise ValueError(f"reward_model={folder!r} has {name}: train it as plain LoRA")
    try:
        tensors = load_file(str(path / "adapter_model.safetensors"))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"reward_model={folder!r} cannot be read: {error}") from error
    found = {_own_name(name, reward): tensor for name, tensor in tensors.items()}
    own = reward.own()
    for name in sorted(set(own) ^ set(found)):
        lacks = "lacks" if name in own else "has"
        raise ValueError(
            f"reward_model={folder!r} {lacks} {name!r}, unlike this run's: train it on the same "
            "model with the same target_modules"
        )
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"reward_model={folder!r} has {tuple(tensor.shape)} for {name!r}, and this run's "
                f"model {tuple(own[name].shape)}: train it on the same model"
            )
        if not tensor.isfinite().all():
            raise ValueError(f"reward_model={folder!r} holds {name!r} with NaN or infinity: "
                             "train it anew with a lower learning rate")  # fmt: skip
    return found


def _adapter_config(path: Path) -> dict[str, Any]:
    file = path / "adapter_config.json"
    if not file.is_file():
        raise ValueError(
            f"reward_model={str(path)!r} holds no adapter_config.json: name the folder that "
            "`zopro reward` left, trained with LoRA"
        )
    try:
        made = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(file)!r} is damaged: {error}") from error
    if made.get("peft_type") != "LORA" or made.get("task_type") != "SEQ_CLS":
        raise ValueError(
            f"reward_model={str(path)!r} is a {made.get('peft_type')} adapter of task "
            f"{made.get('task_type')}: give a LORA adapter of task SEQ_CLS, as `zopro reward` "
            "leaves it"
        )
    return made


def _own_name(name: str, reward: RewardModel) -> str:
    """PEFT's name in a file -> the name in `RewardModel.own()`."""
    name = name.removeprefix("base_model.model.")
    if name.startswith("score."):
        return "score.weight"  # of a modules_to_save
    trunk = reward._policy[0].get_base_model().base_model_prefix
    stem, _, end = name.removeprefix(f"{trunk}.").rpartition(".")
    return f"trunk.{stem}.{REWARD}.{end}"
