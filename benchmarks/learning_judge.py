"""The held-out judgement of a learning run: reward of samples, their KL, their length."""

from __future__ import annotations

from typing import Any

import torch
from learning_meters import Meter

from zopro.tasks import Task
from zopro.tasks.prompts import is_chat

CHUNK = 128
JUDGED = 384  # prompts whose samples tell the KL: two forwards more a sample


class Judge:
    """Samples at temperature 1 to held-out prompts, the same for every run of a task and split.

    `curve` gets one entry a call of `at` that falls due: seconds and tokens used, mean reward, its
    standard error over prompts, KL (mean over samples of log pi - log pi_start of the whole
    response, in nats) and length in tokens. `rewards`: of each prompt at the end.
    """

    def __init__(self, model: Any, tokenizer: Any, task: Task, s: dict[str, Any]) -> None:
        chat, kept = is_chat(tokenizer), s["held_out"]
        rows = task.load(s["split"], s["source"], limit=kept, conversational=chat)
        self.rows = task.fit(rows, tokenizer, s["prompt_tokens"])
        self.model, self.tokenizer, self.task, self.s = model, tokenizer, task, s
        self.starts: list[float] = []
        self.curve: list[dict[str, float]] = []
        self.rewards: list[float] = []
        self.due = [s["seconds"] * i / s["points"] for i in range(1, s["points"])]
        self.start = {n: p.detach().clone() for n, p in self._trained().items()}

    def at(self, meter: Meter, last: bool = False, samples: int = 1) -> None:
        """Evaluates if a point of the curve is due, or at the end."""
        if not last and not (self.due and meter.total >= self.due[0]):
            return
        self.due = self.due[1:]
        with meter.paused():
            if last and self.curve and self.curve[-1]["seconds"] == meter.total:
                return
            rewards, kl, length = self.evaluate(1000 + self.s["seed"], samples)
            self.rewards = rewards.tolist()
            self.curve.append({
                "seconds": meter.total,
                "forward_tokens": meter.tokens["generation"] + meter.tokens["scoring"],
                "backward_tokens": meter.tokens["backward"],
                "reward": rewards.mean().item(),
                "se": (rewards.std() / len(rewards) ** 0.5).item(),
                "kl": kl, "length": length,
            })  # fmt: skip

    @torch.no_grad()
    def evaluate(self, seed: int, samples: int = 1) -> tuple[torch.Tensor, float, float]:
        """Mean reward of each prompt [N], mean KL, mean length; no generator is left moved."""
        was = self.model.training
        self.model.eval()
        function = self.task.reward_funcs()[0]
        prompts = [self._text(p) for p in self.rows["prompt"]]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        rewards = torch.zeros(len(prompts))
        ratios, length = [], 0.0
        stride = CHUNK * max(1, len(order) // JUDGED)  # of all lengths some
        devices = [0] if self.s["device"] != "cpu" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for first in range(0, len(order), CHUNK):
                chosen = order[first : first + CHUNK]
                part = self.rows.select(chosen).to_dict()
                asked = part.pop("prompt")
                for _ in range(samples):
                    told = first % stride == 0
                    texts, log_ratio, tokens = self._sample([prompts[i] for i in chosen], told)
                    scores = function(asked, texts, **part)
                    rewards[chosen] += torch.tensor(scores) / samples
                    length += tokens / (len(order) * samples)
                    ratios += [log_ratio / len(chosen)] if told else []
        self.model.train(was)
        return rewards, sum(ratios) / len(ratios), length

    def _text(self, prompt: Any) -> str:
        if isinstance(prompt, str):
            return prompt
        return self.tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True
        )

    def _sample(self, prompts: list[str], told: bool) -> tuple[list[str], float, int]:
        """Texts, the sum over them of log pi - log pi_start (if `told`), and their tokens."""
        encoded = self.tokenizer(
            prompts, return_tensors="pt", padding=True, padding_side="left",
            add_special_tokens=not is_chat(self.tokenizer), return_token_type_ids=False,
        ).to(self.s["device"])  # fmt: skip
        ids = self.model.generate(
            **encoded, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
            max_new_tokens=self.s["tokens"], pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        answer = ids[:, encoded["input_ids"].shape[1] :]
        ended = answer == self.tokenizer.eos_token_id
        mask = (ended.cumsum(1) - ended.long()) == 0
        attention = torch.cat([encoded["attention_mask"], mask.long()], dim=1)
        texts = self.tokenizer.batch_decode(answer, skip_special_tokens=True)
        if not told:
            return texts, 0.0, int(mask.sum())
        now = self._log_probabilities(ids, attention, mask)
        with self._at_start():
            then = self._log_probabilities(ids, attention, mask)
        return texts, (now - then).sum().item(), int(mask.sum())

    def _log_probabilities(self, ids: Any, attention: Any, mask: Any) -> torch.Tensor:
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        kept = mask.shape[1] + 1
        logits = self.model(
            input_ids=ids, attention_mask=attention, position_ids=positions, logits_to_keep=kept
        ).logits[:, :-1]
        chosen = ids[:, -mask.shape[1] :, None]
        logp = logits.float().log_softmax(-1).gather(2, chosen)[..., 0]
        return (logp * mask).sum(1).double()

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def _at_start(self) -> Any:
        judge = self

        class AtStart:
            """The trained weights of the start, inside."""

            def __enter__(self) -> None:
                self.kept = {n: p.detach().clone() for n, p in judge._trained().items()}
                for n, p in judge._trained().items():
                    p.data.copy_(judge.start[n])

            def __exit__(self, *_: Any) -> None:
                for n, p in judge._trained().items():
                    p.data.copy_(self.kept[n])

        return AtStart()
