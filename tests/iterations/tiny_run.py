"""A run of iterations on the tiny random Llama of the trainer's tests, with invented data."""

import torch
from datasets import Dataset
from trainer.tiny_llama import build_model, build_tokenizer, pairs, prompts
from transformers import TrainerCallback

from zopro.iterations import IterationConfig, iterate

TRAINER = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "use_cpu": True,
           "disable_tqdm": True}  # fmt: skip


def config(folder, **options):
    defaults = {
        "lora_r": 2,
        "lora_alpha": 4,
        "max_prompt_length": 12,
        "max_completion_length": 4,
        "save_steps": 1,
        "trainer": TRAINER,
        "policy": {"num_generations": 2, "beta": 0.05},
        "zeroth": {"learning_rate": 1e-2},
        "first_order": {"learning_rate": 1e-2},
        "reward": {"learning_rate": 1e-2},
        "refine": {"learning_rate": 1e-2},
    }
    return IterationConfig(str(folder), **{**defaults, **options})


def scores(n=16):
    return Dataset.from_dict(
        {
            "prompt": [f"w{i} w{i + 1}" for i in range(n)],
            "completion": [" good cat" if i % 2 else " bad b" for i in range(n)],
            "score": [float(i % 2) for i in range(n)],
        }
    )


def supervised(n=16):
    return Dataset.from_dict(
        {"prompt": [f"w{i} w{i + 1}" for i in range(n)], "completion": [" good cat a"] * n}
    )


def data(n=16, **more):
    return {"prompts": prompts(n), "reward": pairs(n), **more}


def longer(prompts, firsts, seconds):
    """A judge without whims: the text that comes first in the alphabet."""
    return [int(b < a) for a, b in zip(firsts, seconds)]


def run(folder, rows=None, judge=longer, model=None, tokenizer=None, call=None, **options):
    call = call or {}
    if "reward_funcs" in call:
        judge = None
    return iterate(
        config(folder, **options),
        data() if rows is None else rows,
        judge=judge,
        model=build_model() if model is None else model,
        tokenizer=build_tokenizer() if tokenizer is None else tokenizer,
        **call,
    )


class Stop(Exception):
    pass


class StopAt(TrainerCallback):
    """Raises after one step of the phase, as if the power went."""

    def __init__(self, phase, step=1):
        self.phase, self.step = phase, step

    def on_step_begin(self, args, state, control, **kwargs):
        if args.output_dir.endswith(f"/{self.phase}") and state.global_step == self.step:
            raise Stop(self.phase)


def ends(outcome):
    weights = {n: p.detach() for n, p in outcome.policy.named_parameters() if "lora" in n}
    return weights | {"score": outcome.reward.score.weight.detach()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
