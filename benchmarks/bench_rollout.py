"""Tokens a second of generation in the trainer, and where the time of a step goes.

    python benchmarks/bench_rollout.py [--batches 8x2 8x8 32x8] [--device cpu]

ZOPrOTrainer on the demo's start (2.7 M parameters; with --shape the random model of that shape,
with the demo's vocabulary), PROMPTSxRESPONSES a step, every response of the same length, one
two-sided direction. Beside it plain `model.generate` of the same prompts, responses and lengths.
Seconds are wall-clock, by phase: scoring holds the perturbed forwards, perturbation all writes of
the weights, other what TRL does around them.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import shapes
import torch
import transformers
from datasets import Dataset
from harness import Cases, options, parsed
from learning_meters import Meter
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from zopro import ZOPrOConfig, ZOPrOTrainer

START = Path(__file__).resolve().parents[1] / "examples/translation/start"
BATCHES = ["8x2", "8x8", "32x8"]
SHAPES = {"cpu": None, "cuda": "135m"}
PROMPT = "English: a library for {} and tools to read {}\nGerman:"
WORDS = ("apples", "pears", "plums", "quinces", "cherries", "figs", "dates", "grapes")


class WallMeter(Meter):
    """Seconds of the wall clock on a CPU too: generation uses all of its cores."""

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class Phases(TrainerCallback):
    """Measures a trainer's phases from the second step on: the first warms up."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.trainer = meter, None

    def on_train_begin(self, args, state, control, **_):
        meter, trainer = self.meter, self.trainer
        optimizer = trainer.zopro
        estimate = meter.timed(optimizer.estimate, "perturbation")
        optimizer.estimate = lambda closure, **how: estimate(meter.timed(closure, "scoring"), **how)
        optimizer.step = meter.timed(optimizer.step, "perturbation")
        for name, phase in (
            ("training_step", "other"), ("_generate_and_score_completions", "scoring"),
            ("_calculate_rewards", "reward"), ("_generate", "generation"),
        ):  # fmt: skip
            meter.wrap(trainer, name, phase)

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 1:
            self.meter.seconds.clear()


def load(shape: str | None, device: str) -> tuple[torch.nn.Module, Any]:
    """The model and the demo's tokenizer, which pads on the left."""
    tokenizer = AutoTokenizer.from_pretrained(START, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if shape is None:
        model = AutoModelForCausalLM.from_pretrained(START, dtype=torch.float32).to(device)
    else:
        dtype = "bf16" if device == "cuda" else "fp32"
        model = shapes.build(shape, dtype, device, "full", vocab_size=len(tokenizer),
                             pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    return model.eval(), tokenizer


def in_the_trainer(
    model, tokenizer, prompts, responses, tokens, steps, device
) -> tuple[dict[str, float], int]:
    """Seconds a step by phase, over `steps` steps of ZOPrOTrainer on fresh rollouts; tokens a step.

    The tokens are those that the reward function is shown.
    """
    batch, shown = len(prompts) * responses, []

    def reward(completions, completion_ids, **_):
        shown.append(sum(map(len, completion_ids)))
        return [float(len(c) % 7) for c in completions]

    with tempfile.TemporaryDirectory() as folder:
        args = ZOPrOConfig(
            folder, max_steps=steps + 1, per_device_train_batch_size=batch, learning_rate=1e-6,
            num_generations=responses, max_completion_length=tokens, temperature=1.0, beta=0.0,
            generation_kwargs={"min_new_tokens": tokens}, use_cpu=device == "cpu",
            logging_steps=1000, save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        phases = Phases(WallMeter(torch.device(device)))
        trainer = ZOPrOTrainer(
            model, reward, args, Dataset.from_dict({"prompt": prompts * (steps + 1)}),
            processing_class=tokenizer, callbacks=[phases],
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        phases.trainer = trainer
        trainer.train()
    seconds = {phase: s / steps for phase, s in phases.meter.seconds.items()}
    return seconds, round(statistics.mean(shown[1:]))


def plain_generate(model, tokenizer, prompts, responses, tokens, device) -> float:
    """Seconds of model.generate for the same prompts, repeated as often as there are responses."""
    texts = [p for p in prompts for _ in range(responses)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True).to(device)
    meter = WallMeter(torch.device(device))
    with meter.phase("generation"), torch.no_grad():
        model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=True,
            temperature=1.0, max_new_tokens=tokens, min_new_tokens=tokens,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    return meter.total


def measure(batch: str, tokens: int, steps: int, shape: str | None, device: str) -> dict[str, Any]:
    """One row: a batch PROMPTSxRESPONSES."""
    count, responses = map(int, batch.split("x"))
    model, tokenizer = load(shape, device)
    prompts = [PROMPT.format(WORDS[i % 8], WORDS[i // 8 % 8]) for i in range(count)]
    common = (model, tokenizer, prompts, responses, tokens)
    plain = [plain_generate(*common, device) for _ in range(steps + 1)][1:]
    seconds, generated = in_the_trainer(*common, steps, device)
    whole = sum(seconds.values())
    row = {
        "prompts": count, "responses": responses, "tokens": tokens, "steps": steps,
        "generated": generated,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."), "shape": shape or "demo's start",
        "seconds_a_step": seconds, "step_s": whole,
        "generate_s": statistics.median(plain),
        "tokens_per_s": generated / seconds["generation"],
        "tokens_per_s_of_generate": count * responses * tokens / statistics.median(plain),
        "tokens_per_s_of_steps": generated / whole,
    }  # fmt: skip
    shares = ", ".join(f"{k} {100 * s / whole:.0f} %" for k, s in seconds.items())
    print(f"{batch:6} {row['tokens_per_s']:9.0f} tokens/s in the trainer, "
          f"{row['tokens_per_s_of_generate']:9.0f} by generate; {shares}")  # fmt: skip
    return row


def main() -> int:
    parser = options(__doc__, budget=60)
    parser.add_argument("--batches", nargs="+", default=BATCHES, help="PROMPTSxRESPONSES")
    parser.add_argument("--tokens", type=int, default=32, help="of each response")
    parser.add_argument("--steps", type=int, default=3, help="measured, after one that warms up")
    parser.add_argument("--shape", choices=shapes.SHAPES, help="default: the demo's; cuda: 135m")
    args = parsed(parser)
    transformers.logging.set_verbosity_error()
    cases, shape = Cases(args.budget), args.shape or SHAPES[args.device]
    some = (args.tokens, args.steps, shape, args.device)
    rows = [cases.run(batch, measure, batch, *some) for batch in args.batches]
    return cases.finish(args, "bench_rollout", {"rollouts": [r for r in rows if r]})


if __name__ == "__main__":
    sys.exit(main())
