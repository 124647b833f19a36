"""What a run is made of beside its options and data: which weights, judge, kernels, ranks, code."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import zopro
import zopro_kernels as zk
from zopro.digests import digest, digest_each

logger = logging.getLogger(__name__)

# What may not change while a run goes on, and how a refusal calls it; the rest is warned of.
FIXED = {
    "model": "model's weights are",
    "tokenizer": "tokenizer is",
    "reward_model": "reward_model's weights are",
    "reward_funcs": "reward functions are",
    "judge": "judge is",
}
CALLABLE = "callable "  # before the name of a judge that has no `name` of its own
CHANGED = {  # an end may then have other bits, or come from other verdicts
    "endpoint": "its judge at",
    "device": "device",
    "backend": "the backend",
    "law": "the noise law",
    "world_size": "world size",
    "commit": "commit",
}


def identity(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    judge: Any,
    reward_funcs: Sequence[Any],
    first_reward: Mapping[str, Tensor] | None,
) -> dict[str, Any]:
    """Plain strings and numbers. Weights are read once (SHA-256), nothing is written.

    policy: before any phase, so that its base is what the run begins with; adapters do not count.
    first_reward: the tensors of a reward model that the run is given, or None.
    """
    return {
        "model": fingerprint(policy),
        "tokenizer": _of_tokenizer(tokenizer),
        "reward_model": None if first_reward is None else of_tensors(first_reward),
        "reward_funcs": [name_of(f) for f in reward_funcs],
        "judge": None if judge is None else _of_judge(judge),
        "endpoint": getattr(judge, "url", None),
        "device": policy.device.type,
        "backend": os.environ.get("ZOPRO_BACKEND") or zk.default_backend(policy.device),
        "law": zk.LAW,
        "world_size": PartialState().num_processes,
        "commit": commit(),
    }


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the bits of a model's parameters in its own order; adapters over it left out."""
    beside = (".lora_", ".modules_to_save.")
    return digest(p for n, p in model.named_parameters() if not any(part in n for part in beside))


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors, whatever their order."""
    names = sorted(tensors)
    pairs = list(zip(names, digest_each(tensors[n] for n in names)))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def name_of(function: Any) -> str:
    """A `name` that it has, a function's own name, or its class's."""
    for found in (getattr(function, "name", None), getattr(function, "__name__", None)):
        if isinstance(found, str):
            return found
    return type(function).__name__


def _of_judge(judge: Any) -> str:
    named = isinstance(getattr(judge, "name", None), str)
    return name_of(judge) if named else f"{CALLABLE}{name_of(judge)}"


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    parts = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template,
             tokenizer.eos_token_id, tokenizer.pad_token_id]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def compare(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """ValueError, a sentence, for another model, tokenizer, reward or judge than the run began
    with; a warning for other kernels, ranks, code. What `before` lacks is not compared."""
    for name, what in FIXED.items():
        # None: a given reward model that the run has taken up already and reads no more.
        if now[name] is not None and before.get(name, now[name]) != now[name]:
            if _callables(before[name], now[name]):
                continue  # a name is no more than a hint there
            raise ValueError(
                f"the {what} not what the run in {str(folder)!r} began with "
                f"({_short(before[name])} then, {_short(now[name])} now): give the same, or name "
                "a new folder"
            )
    for name, what in CHANGED.items():
        if before.get(name, now[name]) != now[name]:
            logger.warning("the run in %s began with %s %s and goes on with %s: its end may have "
                           "other bits", folder, what, before[name], now[name])  # fmt: skip


def _callables(*judges: Any) -> bool:
    return all(isinstance(judge, str) and judge.startswith(CALLABLE) for judge in judges)


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else repr(value)


def commit() -> str | None:
    """The commit of the checkout that zopro runs from, "+" where it has changes; None of none."""
    here = ["git", "-C", str(Path(zopro.__file__).parent)]
    asked = (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno", "."],
             ["ls-files", "__init__.py"])  # fmt: skip
    try:
        ran = [
            subprocess.run([*here, *rest], capture_output=True, text=True, timeout=10, check=True)
            for rest in asked
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    if not ran[2].stdout.strip():
        return None  # installed inside somebody else's repository
    return ran[0].stdout.strip() + ("+" if ran[1].stdout.strip() else "")
