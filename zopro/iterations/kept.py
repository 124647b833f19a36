"""Samples over time: a few of the responses that a policy phase scores anyway, at each log."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import TrainerCallback

from .store import RunFolder

COUNT = 3  # responses a log
LONGEST = 2000  # characters of a prompt or response


class KeepSamples(TrainerCallback):
    """Looks on at the reward functions, and writes `COUNT` of the last batch's responses at each
    log: those of the prompts that are first by digest, so that one that comes again is shown again.
    """

    def __init__(self, run: RunFolder, phase: str) -> None:
        self._run, self._phase = run, phase
        self._chosen: list[int] = []
        self._rows: list[dict[str, Any]] = []

    def watch(self, rewards: Sequence[Any]) -> list[Any]:
        """The same reward functions, under their names, looked on; modules and coroutines as they
        are."""
        plain = [r for r in rewards if _is_plain(r)]
        return [self._watched(r, first=r is plain[0]) if r in plain else r for r in rewards]

    def _watched(self, reward: Any, first: bool) -> Any:
        name = getattr(reward, "__name__", type(reward).__name__)

        @functools.wraps(reward, updated=())
        def watched(prompts: Any, completions: Any, **columns: Any) -> Any:
            scores = reward(prompts=prompts, completions=completions, **columns)
            with contextlib.suppress(TypeError, ValueError, IndexError):
                # What does not serve as scores is the trainer's to tell.
                if first:
                    self._choose(prompts, completions)
                for i, row in zip(self._chosen, self._rows):
                    row["rewards"][name] = None if scores[i] is None else float(scores[i])
            return scores

        watched.__name__ = name
        return watched

    def _choose(self, prompts: Sequence[Any], completions: Sequence[Any]) -> None:
        texts = [shown(prompt) for prompt in prompts]
        apart = {text: i for i, text in reversed(list(enumerate(texts)))}  # a prompt's first
        order = sorted(apart, key=lambda text: hashlib.sha256(text.encode()).digest())[:COUNT]
        self._chosen = [apart[text] for text in order]
        self._rows = [
            {"prompt": text, "completion": shown(completions[apart[text]]), "rewards": {}}
            for text in order
        ]

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self._rows and logs and "loss" in logs:
            self._run.keep_samples(self._phase, state.global_step, self._rows)
            self._rows, self._chosen = [], []


def shown(text: Any) -> str:
    """A text, or messages with their roles, a line each; what is beyond `LONGEST` is left out."""
    if not isinstance(text, str):
        text = "\n".join(f"{m.get('role', '')}: {m.get('content', '')}" for m in text)
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


def _is_plain(reward: Any) -> bool:
    if not callable(reward) or isinstance(reward, nn.Module):
        return False
    late = inspect.iscoroutinefunction
    return not late(reward) and not late(type(reward).__call__)
