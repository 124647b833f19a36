"""Run by test_trainer_ranks.py on each of two ranks: what they saw goes to OUT/rank<i>.json."""

import functools
import json
import os
import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from trainer.tiny_llama import build_model, build_tokenizer, prompts, reward_digits, tokens
from trainer.tiny_trainer import Reports, ZOTrainer, arguments

from zopro import ZOPrOConfig, ZOPrOTrainer
from zopro.trainer.distributed import digest

torch.set_num_threads(1)
OUT, RANK = Path(sys.argv[1]), int(os.environ["RANK"])


def mean_of_ranks():
    """Still weights: the slopes must be those of one process with the batches of both ranks."""
    reports = Reports()
    args = arguments(OUT / "mean", learning_rate=0.0, max_steps=3, zo_eps=1e-2)
    t = ZOTrainer(build_model(), args, None, tokens(), callbacks=[reports])
    t.train()
    assert not isinstance(t.model_wrapped, DistributedDataParallel)
    return {"slopes": [r.projected_gradients[0] for r in reports.all]}


def rloo():
    """Other responses, other base seeds, a NaN on rank 1 alone: still the same bits."""
    args = arguments(
        OUT / "rloo", ZOPrOConfig, max_steps=4, save_strategy="steps", save_steps=2, beta=0.0,
        num_generations=2, max_completion_length=6, zo_seed=RANK, zo_num_directions=2,
        weight_decay=0.1, gradient_accumulation_steps=2, learning_rate=1e-2,
    )  # fmt: skip
    seen = []

    def reward(completions, **columns):
        seen.extend(completions)
        return reward_digits(completions)

    t = ZOPrOTrainer(build_model(), reward, args, prompts(), processing_class=build_tokenizer())
    parent, calls = t.model.forward, []

    @functools.wraps(parent)
    def forward(*args, fused_lm_head=False, **kwargs):
        out = parent(*args, fused_lm_head=fused_lm_head, **kwargs)
        calls.append(None)
        if fused_lm_head and RANK == 1 and t.state.global_step == 1:
            out.log_probs = out.log_probs * float("nan")
        return out

    start = digest(t.model.parameters())
    t.model.forward = forward
    t.train()
    return {
        "seed": t.zopro.state_dict()["zopro"]["seed"],
        "skipped": t.zopro.skipped_steps,
        "responses": seen,
        "moved": digest(t.model.parameters()) != start,
        "digest": digest(t.model.parameters()),
    }


def strangers():
    """Weights that differ at the start are refused on both ranks."""
    t = ZOTrainer(build_model(seed=RANK), arguments(OUT / "strangers"), None, tokens())
    try:
        t.train()
    except RuntimeError as error:
        return {"error": str(error)}
    return {"error": None}


seen = {f.__name__: f() for f in (mean_of_ranks, rloo, strangers)}
(OUT / f"rank{RANK}.json").write_text(json.dumps(seen))
