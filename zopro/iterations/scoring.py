"""Between the phases: the policy samples, the reward model scores. No gradients, no trainer."""

from __future__ import annotations

import asyncio
import functools
import inspect
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from .models import RewardModel

Text = str | list[dict[str, str]]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, every module is in eval mode; each one's own flag again on exit. No graph."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags.items():
            module.training = flag


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators are seeded; on exit they are as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def plain(text: Text) -> str:
    """A string as it is; of messages, their contents, a line each."""
    return text if isinstance(text, str) else "\n".join(m["content"] for m in text)


def whole(prompt: Text, completion: Text, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a finished response after its prompt, as TRL's RewardTrainer trains on them:
    plain text with the end-of-sequence token, messages through the chat template."""
    if isinstance(prompt, str):
        text = prompt + plain(completion)
        if not text.endswith(tokenizer.eos_token):
            text += tokenizer.eos_token
        return tokenizer(text)["input_ids"]
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    text = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


class RewardScorer:
    """The reward model as a reward function of TRL's signature.

    Scores are the head's output, one float a completion. A text of over `max_length` tokens loses
    its beginning.
    """

    __name__ = "reward_model"

    def __init__(
        self,
        reward: RewardModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        max_length: int,
    ) -> None:
        self.told: Callable[[int, int], None] | None = None  # hears of more texts and tokens
        self._reward, self._tokenizer = reward, tokenizer
        self._batch, self._max = batch_size, max_length

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float]:
        rows = [whole(p, c, self._tokenizer)[-self._max :] for p, c in zip(prompts, completions)]
        scores: list[float] = []
        device = self._reward.score.weight.device
        with evaluating(self._reward):
            for start in range(0, len(rows), self._batch):
                ids, mask = padded(rows[start : start + self._batch], self._tokenizer.pad_token_id)
                logits = self._reward(ids.to(device), mask.to(device)).logits
                scores += logits[:, 0].float().tolist()
                if self.told is not None:
                    self.told(len(logits), int(mask.sum()))
        return scores


def padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, int64 [B, longest row], padded on the right."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def prompt_text(prompt: Text, tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool]:
    """What is tokenized of a prompt, and whether the tokenizer adds its special tokens to it."""
    if isinstance(prompt, str):
        return prompt, True
    return tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True), False


def prompt_lengths(prompts: Sequence[Text], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of each prompt, with the chat template's where it is conversational."""
    lengths = []
    for prompt in prompts:
        text, special = prompt_text(prompt, tokenizer)
        lengths.append(len(tokenizer(text, add_special_tokens=special)["input_ids"]))
    return lengths


def sample(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    *,
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
    seed: int,
    told: Callable[[int, int], None] = lambda responses, tokens: None,
) -> list[Text]:
    """One response of the policy to each prompt, in the prompts' own form (text or messages).

    Depends on `seed` and the arguments alone; the global generators stay where they are. `told`
    hears after each batch of so many more responses and sampled tokens.
    """
    out: list[Text] = []
    ends = policy.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    ends = list(dict.fromkeys([tokenizer.eos_token_id, *ends]))
    with evaluating(policy), seeded(seed, policy.device):
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            texts = [prompt_text(p, tokenizer) for p in batch]
            inputs = tokenizer(
                [text for text, _ in texts],
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=texts[0][1],
                return_token_type_ids=False,
            ).to(policy.device)
            ids = policy.generate(
                **inputs,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=ends,
                disable_compile=True,
            )[:, inputs["input_ids"].shape[1] :]
            for prompt, text in zip(batch, tokenizer.batch_decode(ids, skip_special_tokens=True)):
                message = [{"role": "assistant", "content": text}]
                out.append(text if isinstance(prompt, str) else message)
            told(len(batch), int((ids != tokenizer.pad_token_id).sum()))
    return out


def timed(reward: Any, seconds: float | None) -> Any:
    """`reward` under its own name, given up on after so many seconds with a RuntimeError.

    It runs on a thread of its own, which cannot be ended: one that is given up on goes on until
    the process ends. A coroutine is cancelled. None or a model: `reward` as it is.
    """
    if seconds is None or not callable(reward) or isinstance(reward, nn.Module):
        return reward
    late = f"it took over reward_timeout={seconds:g} seconds"
    if inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(type(reward).__call__):

        @functools.wraps(reward, updated=())
        async def limited_async(*args: Any, **columns: Any) -> Any:
            limit = asyncio.timeout(seconds)
            try:
                async with limit:
                    return await reward(*args, **columns)
            except TimeoutError as error:
                raise (TimeoutError(late) if limit.expired() else error) from None

        limited_async.__name__ = getattr(reward, "__name__", type(reward).__name__)
        return limited_async

    @functools.wraps(reward, updated=())
    def limited(*args: Any, **columns: Any) -> Any:
        done: queue.Queue = queue.Queue()

        def work() -> None:
            try:
                done.put((reward(*args, **columns), None))
            except BaseException as error:
                done.put((None, error))

        threading.Thread(target=work, daemon=True).start()
        try:
            value, error = done.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(late) from None
        if error is not None:
            raise error
        return value

    limited.__name__ = getattr(reward, "__name__", type(reward).__name__)
    return limited
