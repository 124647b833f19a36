"""Loading what a command names: models, tokenizers, tasks; one sentence where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from zopro.tasks import get_task, task_names

from .errors import CommandError, sentence


def task_of(values: dict[str, Any]):
    """The task that `values` name."""
    if not values.get("task"):
        raise CommandError(f"task is missing: give --task, one of {', '.join(task_names())}")
    return get_task(values["task"])


def checked_model(name: str | None) -> Any:
    """The configuration of a model by name or folder; CommandError where there is none.

    Code from a model's folder is never run (trust_remote_code=False).
    """
    hf_logging.disable_progress_bar()
    if not name:
        raise CommandError("model is missing: give --model, a folder or a name on the hub")
    path = Path(name)
    if path.is_dir() and (path / "adapter_config.json").is_file():
        raise CommandError(
            f"model={name!r} holds an adapter: name a whole model (`zopro sft --merge` leaves one)"
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise CommandError(f"model={name!r} is a folder without config.json: name a model's folder")
    if not path.is_dir() and (path.exists() or name.startswith((".", "/", "~")) or "\\" in name):
        raise CommandError(f"model={name!r} is no folder: name a model's folder or one on the hub")
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise CommandError(f"model={name!r} cannot be loaded: {sentence(error)}") from error


def tokenizer_of(name: str) -> Any:
    """A model's tokenizer; CommandError where there is none."""
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise CommandError(f"model={name!r} has no tokenizer: {sentence(error)}") from error


def model_with(name: str, adapter: str | None, dtype: str) -> Any:
    """A causal language model, with a PEFT adapter over it where one is named, in eval mode."""
    import torch

    # PEFT would take pickled weights where these are not there.
    for file in ("adapter_config.json", "adapter_model.safetensors") if adapter else ():
        if not (Path(adapter) / file).is_file():
            raise CommandError(f"adapter={adapter!r} holds no {file}: name PEFT's folder")
    model = AutoModelForCausalLM.from_pretrained(
        name, dtype=dtype, use_safetensors=True, trust_remote_code=False
    )
    if adapter is not None:
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, adapter)
        except Exception as error:
            raise CommandError(
                f"adapter={adapter!r} does not fit {name!r}: {sentence(error)}"
            ) from (error)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def lengths(config: Any, prompt: int | None, completion: int) -> int:
    """max_prompt_length: as given, else what the model has room for beside `completion`, <= 512."""
    if prompt is not None:
        return prompt
    room = getattr(config.get_text_config(), "max_position_embeddings", None)
    prompt = 512 if room is None else min(512, room - completion - 1)
    if prompt < 1:
        raise CommandError(
            f"max_completion_length={completion} leaves no room for a prompt in the model's {room} "
            "positions: lower it"
        )
    return prompt
