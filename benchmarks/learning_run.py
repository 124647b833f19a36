"""One learning run: a method trains a model on a task's reward for a budget of seconds.

    python benchmarks/learning_run.py '{"method": "zopro", "seed": 3, ...}' OUT.json

Used by learning.py, a process a run. Settings are those of BASE. The curve holds, at some points
of the budget, the mean reward of samples on held-out prompts, and the KL divergence from the start
that these samples show.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from learning_meters import Meter, measure_kernels
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import RLOOConfig, RLOOTrainer

from zopro import ZOPrOConfig, ZOPrOTrainer
from zopro.tasks import get_task
from zopro.tasks.prompts import is_chat

BASE: dict[str, Any] = {
    "task": "translation",
    "source": None,  # of its data: None, the task's offline one
    "model": "examples/translation/start",
    "device": "cpu",
    "method": "zopro",  # zopro | spsa | rloo
    "seconds": 100.0,  # of training; evaluations do not count
    "seed": 0,
    "split": "validation",  # the held-out prompts
    "held_out": 400,  # so many of them
    "points": 1,  # of the curve, the end among them
    # Rollouts, the same for all methods.
    "prompts": 32,  # of a rollout
    "responses": 8,  # to a prompt
    "batch": 64,  # responses of an optimizer step
    "sweeps": 2,  # of a rollout
    "tokens": 20,  # of a response, at most
    "prompt_tokens": 96,
    # What is trained, and how.
    "train": "last_norm",  # last_norm | norms | all | lora
    "lr": 1.0,
    "eps": 0.02,
    "directions": 4,
    "estimator": "one_sided",
    "distribution": "rademacher",
    "iterations": 3,  # zopro: the first is plain, each later one is aimed by the one before
    "first": None,  # zopro: "rloo" for a first-order first iteration, with the rate
    "first_lr": 0.03,
    "schedule": "linear",  # of the previous update's weight; "zero" keeps it 0
    "aim_lr": None,  # the learning rate of the aimed iterations; None: lr
    "population": 0,  # directions scored in one forward; 0: `directions` one after another
    "family": 0,  # zopro: the first so many iterations are plain, each later one is in the span of
    # so many updates of those before; 0: targeted
    "clip": None,  # PPO's; None: 0.2 for rloo, none for forwards (it cuts off one perturbed loss)
}


def load_model(s: dict[str, Any]) -> torch.nn.Module:
    """The start in fp32 with the chosen part trainable."""
    model = AutoModelForCausalLM.from_pretrained(s["model"], dtype=torch.float32)
    model = model.to(s["device"]).eval()
    if s["train"] == "lora":
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(s["seed"])
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, config)
    for name, p in model.named_parameters():
        chosen = {
            "all": True,
            "norms": "norm" in name,
            "last_norm": name.endswith("model.norm.weight"),
        }[s["train"]]
        p.requires_grad_(chosen)
    return model


def trainable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


class Curve(TrainerCallback):
    """Evaluates where the curve has points, and ends training after the rollout that uses it up."""

    def __init__(self, meter: Meter, judge: Any, s: dict[str, Any], until: float) -> None:
        self.meter, self.judge, self.s, self.until = meter, judge, s, until
        self.rollout = s["sweeps"] * s["prompts"] * s["responses"] // s["batch"]

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.rollout == 0:
            self.judge.at(self.meter)
            control.should_training_stop |= self.meter.total >= self.until


def trainer_of(model, s, tokenizer, rows, callbacks, lr: float, steps: int):
    """TRL's RLOOTrainer or ours over it, with the same rollouts."""
    task = get_task(s["task"])
    common = dict(
        output_dir=tempfile.mkdtemp(), learning_rate=lr, lr_scheduler_type="constant",
        max_steps=steps, per_device_train_batch_size=s["batch"], gradient_accumulation_steps=1,
        num_generations=s["responses"], num_iterations=s["sweeps"],
        steps_per_generation=s["prompts"] * s["responses"] // s["batch"],
        max_completion_length=s["tokens"], temperature=1.0, beta=0.0, normalize_advantages=True,
        seed=s["seed"] + 1000 * len(callbacks[0].judge.starts), logging_steps=1000,
        save_strategy="no", report_to="none", disable_tqdm=True, bf16=False,
        use_cpu=s["device"] == "cpu",
    )  # fmt: skip
    if s["method"] == "rloo":
        clip = 0.2 if s["clip"] is None else s["clip"]
        cls, args = RLOOTrainer, RLOOConfig(**common, epsilon=clip, gradient_checkpointing=False)
    else:
        clip = 1e3 if s["clip"] is None else s["clip"]
        cls, args = ZOPrOTrainer, ZOPrOConfig(
            **common, epsilon=clip, zo_eps=s["eps"], zo_population=s["population"] or None,
            zo_num_directions=1 if s["population"] else s["directions"],
            zo_log_steps=not s["family"],  # a log does not know families
            zo_estimator=s["estimator"], zo_distribution=s["distribution"],
        )  # fmt: skip
    return cls(model=model, reward_funcs=task.reward_funcs(), args=args, train_dataset=rows,
               processing_class=tokenizer, callbacks=callbacks)  # fmt: skip


def run(s: dict[str, Any]) -> dict[str, Any]:
    """Trains by `s`; settings, curve, seconds by phase, tokens and peak memory."""
    from learning_judge import Judge

    if s["device"] == "cpu":
        torch.set_num_threads(1)
    task, tokenizer = get_task(s["task"]), AutoTokenizer.from_pretrained(s["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = load_model(s)
    chat = is_chat(tokenizer)
    rows = task.load("train", s["source"], conversational=chat)
    rows = task.fit(rows, tokenizer, s["prompt_tokens"])
    meter = Meter(torch.device(s["device"]))
    measure_kernels(meter)
    meter.count_tokens(model.get_base_model() if s["train"] == "lora" else model)
    judge = Judge(model, tokenizer, task, s)
    began = time.time()
    if s["method"] == "start":
        judge.at(meter, last=True, samples=4)
        return {"settings": s, "curve": judge.curve, "rewards": judge.rewards, "steps": 0}
    iterations = s["iterations"] if s["method"] == "zopro" else 1
    before, updates = {}, []
    steps, iteration_steps = 0, 10**6
    for i in range(iterations):
        before = {n: p.detach().clone() for n, p in trainable(model).items()}
        until = s["seconds"] * (i + 1) / iterations
        curve = Curve(meter, judge, s, until)
        if (
            i and not s["family"]
        ):  # as many steps as the time that is left to this iteration holds: for the schedule
            left = (until - meter.total) * steps / meter.total
            if i == 1 and s["first"]:  # steps so far were a forward and a backward, like 3 forwards
                left *= 3 / (s["directions"] + 1)
            iteration_steps = max(curve.rollout, round(left / curve.rollout) * curve.rollout)
        aimed = i >= max(1, s["family"])
        lr = s["aim_lr"] if aimed and s["aim_lr"] is not None else s["lr"]
        how = {**s, "population": s["family"]} if aimed and s["family"] else s
        if i == 0 and s["first"]:
            how, lr = {**s, "method": s["first"]}, s["first_lr"]
        trainer = trainer_of(model, how, tokenizer, rows, [curve], lr, iteration_steps)
        trainer.remove_callback(transformers.PrinterCallback)
        meter.attach(trainer)
        if aimed and s["family"]:
            trainer.set_family(updates[-s["family"] :])
        elif updates and not s["family"] and s["schedule"] != "zero":
            trainer.set_targets(updates[-1], schedule=s["schedule"])
        judge.starts.append(meter.total)
        with meter.phase("other"):
            trainer.train()
        steps += trainer.state.global_step
        if "ref" in getattr(model, "peft_config", {}):  # TRL adds it to a PEFT model, once
            model.delete_adapter("ref")
        updates.append({n: p.detach() - before[n] for n, p in trainable(model).items()})
    judge.at(meter, last=True)
    return {
        "settings": s, "curve": judge.curve, "rewards": judge.rewards, "steps": steps,
        "seconds": dict(meter.seconds), "tokens": dict(meter.tokens),
        "peak_mb": meter.peak_bytes / 2**20, "wall_seconds": time.time() - began,
        "trained": sum(p.numel() for p in trainable(model).values()),
        "iteration_starts": judge.starts,
    }  # fmt: skip


def main() -> None:
    settings = {**BASE, **json.loads(sys.argv[1])}
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    result = run(settings)
    Path(sys.argv[2]).write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
