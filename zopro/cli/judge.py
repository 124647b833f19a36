"""The task as the judge: of two responses the one that its reward function scores higher."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from zopro.iterations.scoring import timed
from zopro.tasks import Task


def _plain(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(m["content"] for m in prompt)


class Rows:
    """A task that remembers the rows it handed out, which its rewards compare responses with."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.rows: dict[str, dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def fit(self, dataset: Any, tokenizer: Any, max_tokens: int) -> Any:
        """As the task's, remembered by the prompts' text."""
        fitted = self._task.fit(dataset, tokenizer, max_tokens)
        self.rows = {_plain(row["prompt"]): row for row in fitted}
        return fitted


class TaskJudge:
    """A judge of `iterate`: 0 or 1 by the task's default reward; None where both score alike or
    one scores no number.

    timeout: seconds that the reward may take for `batch` responses (TimeoutError); None: no limit.
    """

    def __init__(self, rows: Rows, timeout: float | None = None, batch: int = 16) -> None:
        self._rows, self._batch = rows, batch
        reward = rows.reward_funcs()[0]
        self.name = f"the task's reward {getattr(reward, '__name__', type(reward).__name__)}"
        self.told: Callable[[int, int], None] | None = None  # hears of so many more verdicts
        self._reward = timed(reward, timeout)

    def __call__(self, prompts: list[str], firsts: list[str], seconds: list[str]) -> list:
        found: list[int | None] = []
        for k in range(0, len(prompts), self._batch):
            part = slice(k, k + self._batch)
            found += self._compare(prompts[part], firsts[part], seconds[part])
            if self.told is not None:
                self.told(len(prompts[part]), 0)
        return found

    def _compare(self, prompts: list[str], firsts: list[str], seconds: list[str]) -> list:
        rows = [self._rows.rows[prompt] for prompt in prompts]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        asked = columns.pop("prompt")
        first = self._reward(prompts=asked, completions=firsts, **columns)
        second = self._reward(prompts=asked, completions=seconds, **columns)
        # NaN and None are greater than nothing, and would else say that the first is better.
        return [
            None if a == b or not (_number(a) and _number(b)) else int(b > a)
            for a, b in zip(first, second)
        ]


def _number(score: Any) -> bool:
    return score is not None and not math.isnan(score)
