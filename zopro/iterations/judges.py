"""Judges: which of two responses is the better one.

A judge is any callable (prompts, firsts, seconds) -> list, of three lists of strings of one
length; an entry is 0 (the first is better), 1 (the second), or anything else for no usable verdict.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Judge = Callable[[list[str], list[str], list[str]], Sequence[Any]]

QUESTION = (
    "Two assistants answered the same request. Say which answer is better.\n\n"
    "Request:\n{prompt}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}\n\n"
    "Reply with the single letter A or B."
)


@dataclass
class Verdicts:
    """better: 0 or 1 for each pair, in the caller's order, None where unusable; and their count."""

    better: list[int | None] = field(default_factory=list)
    unusable: int = 0


def judge_pairs(
    judge: Judge, prompts: list[str], firsts: list[str], seconds: list[str], seed: int
) -> Verdicts:
    """Asks `judge`, showing each pair in an order drawn from `seed` (no global generator moves).

    Raises RuntimeError for a judge that raises, ValueError for the wrong number of verdicts.
    """
    draw = random.Random(seed)
    swapped = [draw.random() < 0.5 for _ in prompts]
    shown = [(b, a) if swap else (a, b) for a, b, swap in zip(firsts, seconds, swapped)]
    try:
        raw = list(judge(list(prompts), [a for a, _ in shown], [b for _, b in shown]))
    except Exception as error:
        raise RuntimeError(f"the judge raised {type(error).__name__}: {error}") from error
    if len(raw) != len(prompts):
        raise ValueError(
            f"the judge returned {len(raw)} verdicts for {len(prompts)} pairs: return one for each"
        )
    out = Verdicts()
    for verdict, swap in zip(raw, swapped):
        # bool is an int in Python, but True is no position.
        usable = isinstance(verdict, int) and not isinstance(verdict, bool) and verdict in (0, 1)
        out.better.append(verdict ^ swap if usable else None)
        out.unusable += not usable
    return out


def letter(reply: Any) -> int | None:
    """0 for a reply of "A", 1 for "B" (quotes, stops and "Answer" do not matter), else None."""
    if not isinstance(reply, str):
        return None
    words = reply.replace("*", " ").replace('"', " ").replace("'", " ").split()
    words = [w.strip(".,:;!()[]").upper() for w in words]
    words = [w for w in words if w and w != "ANSWER"]
    return {"A": 0, "B": 1}.get(words[0]) if words else None


class LocalJudge:
    """A chat model on this machine, asked greedily, in batches; `told`, where it is set, hears
    after each of so many more answers and tokens.

    model: a name or folder (loaded at the first question, on `device`; the driver releases it after
    each phase that asks), or a loaded model with its
    `tokenizer`, which needs a chat template. Weights that are code are refused (no remote code).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        question: str = QUESTION,
        batch_size: int = 8,
        max_new_tokens: int = 8,
        device: str | None = None,
        dtype: str = "auto",
    ) -> None:
        if not isinstance(model, str) and tokenizer is None:
            raise ValueError("tokenizer=None: a loaded judge needs its tokenizer")
        self._name = model if isinstance(model, str) else None
        self._model, self._tokenizer = model, tokenizer
        self._question, self._batch, self._new = question, batch_size, max_new_tokens
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = dtype
        self.name = f"chat model {self._name or type(model).__name__}"
        self.told: Callable[[int, int], None] | None = None

    def _load(self) -> None:
        if isinstance(self._model, str):
            if self._tokenizer is None:
                self._tokenizer = AutoTokenizer.from_pretrained(
                    self._model, trust_remote_code=False
                )
            self._model = AutoModelForCausalLM.from_pretrained(
                self._model, dtype=self._dtype, use_safetensors=True, trust_remote_code=False
            ).to(self._device)
        if self._tokenizer.chat_template is None:
            raise ValueError("the judge's tokenizer has no chat template: use a chat model")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token  # only padded on, never trained

    def release(self) -> None:
        """Forgets a model that was loaded by name; the next question loads it again."""
        if self._name is not None:
            self._model = self._name

    @torch.no_grad()
    def __call__(self, prompts: list[str], firsts: list[str], seconds: list[str]) -> list:
        self._load()
        self._model.eval()
        asked = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": fill(self._question, *row)}],
                tokenize=False,
                add_generation_prompt=True,
            )
            for row in zip(prompts, firsts, seconds)
        ]
        verdicts: list[int | None] = []
        for start in range(0, len(asked), self._batch):
            inputs = self._tokenizer(
                asked[start : start + self._batch],
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
                return_token_type_ids=False,
            ).to(self._model.device)
            out = self._model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=self._new,
                pad_token_id=self._tokenizer.pad_token_id,
            )
            replies = out[:, inputs["input_ids"].shape[1] :]
            texts = self._tokenizer.batch_decode(replies, skip_special_tokens=True)
            verdicts += [letter(text) for text in texts]
            if self.told is not None:
                self.told(len(texts), replies.numel())
        return verdicts


def fill(question: str, prompt: str, first: str, second: str) -> str:
    """The question with its three places filled; braces in the texts stay as they are."""
    parts = {"{prompt}": prompt, "{first}": first, "{second}": second}
    out, rest = "", question
    while rest:
        place = min((p for p in parts if p in rest), key=rest.index, default=None)
        if place is None:
            return out + rest
        before, _, rest = rest.partition(place)
        out += before + parts[place]
    return out
