"""Looks for the settings of examples/translation/demo.py: what to train, and with which step.

    python benchmarks/demo_search.py --plan coarse --log benchmarks/results/demo_search.json

Each experiment trains part of the demo's starting checkpoint with `zopro.ZOPrO` (or, as the bound
of what is reachable, with its exact gradient) on rollouts of training prompts, and is judged on
validation prompts; the test split is left to the demo. The loop is the demo's without TRL: the
same objective, but when only the last norm is trained the layers below it are run once a rollout.
Every experiment appends one record to the log; those done before are skipped.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from zopro import ZOPrO
from zopro.tasks.debian import translation_pairs

EXAMPLE = Path(__file__).parents[1] / "examples/translation"
sys.path.insert(0, str(EXAMPLE))
from judge import NEW_TOKENS, chrf_reward, evaluate, facts  # noqa: E402

START = EXAMPLE / "start"

BASE = {
    "train": "last_norm",  # last_norm | norms | all | lora
    "method": "zo",  # zo | gradient
    "rollouts": 3,
    "prompts": 32,  # of a rollout
    "responses": 8,  # of a prompt
    "batch": 64,  # responses of a step
    "sweeps": 2,  # of a rollout
    "directions": 4,
    "estimator": "one_sided",
    "distribution": "rademacher",
    "eps": 0.02,
    "lr": 1.0,
    "seed": 0,
}
PLANS = {
    "step": [{"lr": lr} for lr in (0.25, 0.5, 1.0, 2.0, 4.0)]
    + [{"rollouts": 6, "lr": 0.5}, {"rollouts": 6}],
    "estimator": [{"directions": 16}, {"directions": 16, "lr": 2.0}, {"sweeps": 8}, {"sweeps": 4}]
    + [{"distribution": "gaussian"}, {"estimator": "two_sided", "directions": 2}]
    + [{"eps": 0.1}, {"eps": 0.004}, {"batch": 32, "directions": 2, "lr": 0.5}],
    "reuse": [
        {"sweeps": 1, "rollouts": 12},
        {"sweeps": 1, "rollouts": 6, "directions": 8, "lr": 2.0},
    ],
    "bound": [{"method": "gradient", "lr": lr} for lr in (1.0, 4.0, 16.0)],
    "second": [
        {"lr": lr, "second": {"rollouts": 2, **second}}
        for lr in (0.5, 1.0)
        for second in ({}, {"schedule": "linear"}, {"schedule": "linear", "lr": 0.1})
    ],
    "sets": [{"train": "norms", "lr": lr} for lr in (0.03, 0.1)]
    + [{"train": "lora", "lr": lr} for lr in (1e-4, 1e-3)]
    + [{"train": "all", "lr": lr, "eps": 0.002} for lr in (1e-6, 1e-5)],
}


@torch.no_grad()
def sample(model, tokenizer, prompts: list[str]) -> dict:
    """One response to each prompt at temperature 1: ids, attention and completion masks, texts."""
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    ids = model.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        do_sample=True,
        top_k=0,
        max_new_tokens=NEW_TOKENS,
    )
    completion = ids[:, encoded["input_ids"].shape[1] :]
    ended = completion == tokenizer.eos_token_id
    mask = (ended.cumsum(1) - ended.long()) == 0  # up to the first end, that one included
    return {
        "ids": ids,
        "attention": torch.cat([encoded["attention_mask"], mask.long()], dim=1),
        "mask": mask,
        "texts": tokenizer.batch_decode(completion, skip_special_tokens=True),
    }


def hidden(model, b: dict, to_norm: bool) -> torch.Tensor:
    """States that predict the completion's tokens, before the last norm if asked: [B, C, H]."""
    positions = (b["attention"].cumsum(1) - 1).clamp(min=0)
    kept = []
    hook = model.model.norm.register_forward_pre_hook(lambda _, x: kept.append(x[0]))
    after = model.model(
        input_ids=b["ids"], attention_mask=b["attention"], position_ids=positions
    ).last_hidden_state
    hook.remove()
    return (kept[0] if to_norm else after)[:, -b["mask"].shape[1] - 1 : -1]


def sequence_logps(model, b: dict) -> torch.Tensor:
    """Log-probability of each completion: fp32 [B]; from the states kept, where they are."""
    mask = b["mask"]
    if "states" in b:
        flat = model.model.norm(b["states"][mask])
    else:
        flat = hidden(model, b, to_norm=False)[mask]
    logits = model.lm_head(flat)
    tokens = b["ids"][:, -mask.shape[1] :][mask]
    logps = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
    return torch.zeros(mask.shape).masked_scatter(mask, logps).sum(1)


def choose(model, what: str):
    """The model (wrapped for LoRA) with only the chosen weights trainable."""
    if what == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
        return model.base_model.model, [p for p in model.parameters() if p.requires_grad]
    for name, p in model.named_parameters():
        p.requires_grad_(
            what == "all" or name == "model.norm.weight" or (what == "norms" and "norm" in name)
        )
    return model, [p for p in model.parameters() if p.requires_grad]


def optimizer_for(params, s: dict, phase: int, previous):
    """SGD on exact gradients, or ZOPrO; near `previous`, if given, for the whole phase."""
    if s["method"] == "gradient":
        return torch.optim.SGD(params, lr=s["lr"])
    names = ("lr", "eps", "estimator", "distribution")
    arguments = {**{k: s[k] for k in names}, "seed": s["seed"] + 1000 * phase}
    optimizer = ZOPrO(params, num_directions=s["directions"], **arguments)
    if previous is not None:
        steps = s["rollouts"] * s["sweeps"] * s["prompts"] * s["responses"] // s["batch"]
        optimizer.set_targets(previous, schedule=s["schedule"], steps=steps)
    return optimizer


def train(model, tokenizer, pairs, s: dict) -> tuple[list[float], int]:
    """Runs one experiment in place; returns the mean reward of each rollout, and the steps.

    s["second"] holds the changes of a second phase; with a "schedule" its directions are
    targeted near the first phase's update, without one they are plain.
    """
    model, params = choose(model, s["train"])
    before = [p.detach().clone() for p in params]
    rewards, steps = run_phase(model, params, tokenizer, pairs, s, 0, None)
    if "second" in s:
        update = [p.detach() - b for p, b in zip(params, before, strict=True)]
        second = {**s, **s["second"]}
        previous = update if "schedule" in second else None
        more, again = run_phase(model, params, tokenizer, pairs, second, 1, previous)
        rewards, steps = rewards + more, steps + again
    return rewards, steps


def run_phase(model, params, tokenizer, pairs, s, phase, previous) -> tuple[list[float], int]:
    """Rollouts and steps of one phase."""
    optimizer = optimizer_for(params, s, phase, previous)
    chooser = random.Random(s["seed"] + 1000 * phase)
    torch.manual_seed(s["seed"] + 1000 * phase)
    rewards, steps = [], 0
    for _ in range(s["rollouts"]):
        rows = [pairs[i] for i in chooser.sample(range(len(pairs)), s["prompts"])]
        rollout, reward = roll_out(model, tokenizer, rows, s)
        rewards.append(reward)
        for _ in range(s["sweeps"]):
            for chosen in torch.randperm(len(rollout["old"])).split(s["batch"]):
                loss = objective(model, {k: v[chosen] for k, v in rollout.items()})
                if s["method"] == "gradient":
                    optimizer.zero_grad()
                    loss().backward()
                    optimizer.step()
                else:
                    optimizer.step(loss)
                steps += 1
    return rewards, steps


@torch.no_grad()
def roll_out(model, tokenizer, rows: list[dict], s: dict) -> tuple[dict, float]:
    """Samples and scores responses; tensors of a rollout [N, ...] and its mean reward."""
    rows = [r for r in rows for _ in range(s["responses"])]
    rollout = sample(model, tokenizer, [r["prompt"] for r in rows])
    scores = chrf_reward(None, rollout.pop("texts"), [r["reference"] for r in rows])
    grouped = torch.tensor(scores).view(s["prompts"], s["responses"])
    others = (grouped.sum(1, keepdim=True) - grouped) / (s["responses"] - 1)
    advantages = (grouped - others).flatten()
    rollout["advantages"] = (advantages - advantages.mean()) / (advantages.std() + 1e-4)
    if s["train"] == "last_norm":
        rollout["states"] = hidden(model, rollout, to_norm=True)
    rollout["old"] = sequence_logps(model, rollout)
    return rollout, grouped.mean().item()


def objective(model, b: dict):
    """The closure of one step: minus the mean advantage times the ratio of likelihoods."""
    return lambda: -(b["advantages"] * torch.exp(sequence_logps(model, b) - b["old"])).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", choices=PLANS, default="step")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=2, help="responses a validation prompt")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(START)
    start = AutoModelForCausalLM.from_pretrained(START, dtype=torch.float32).eval()
    pairs, held_out = translation_pairs("train"), translation_pairs("validation")
    records = json.loads(args.log.read_text()) if args.log.exists() else []
    before = evaluate(start, tokenizer, held_out, args.samples, seed=1)
    for change in PLANS[args.plan]:
        settings = {**BASE, **change}
        if any(r["settings"] == settings for r in records):
            continue
        model = copy.deepcopy(start)
        began, cpu = time.time(), time.process_time()
        rollouts, steps = train(model, tokenizer, pairs, settings)
        record = {"settings": settings, "steps": steps, "rollout_rewards": rollouts}
        record["seconds"] = round(time.time() - began, 1)
        record["cpu_seconds"] = round(time.process_time() - cpu, 1)
        after = evaluate(model, tokenizer, held_out, args.samples, seed=2)
        gain, root = after - before, len(before) ** 0.5
        record["before"] = {"mean": before.mean().item(), "se": (before.std() / root).item()}
        record["after"] = {"mean": after.mean().item(), "se": (after.std() / root).item()}
        record["gain"] = {"mean": gain.mean().item(), "se": (gain.std() / root).item()}
        records.append({**record, "prompts": len(before), **facts()})
        args.log.parent.mkdir(parents=True, exist_ok=True)
        args.log.write_text(json.dumps(records, indent=1) + "\n")
        print(change, f"gain {gain.mean():.4f} +- {gain.std() / root:.4f}", record["seconds"], "s",
              f"cpu {record['cpu_seconds']} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
