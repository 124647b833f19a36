"""Judging the demo's models: the chrF reward, held-out evaluation, intervals, the table."""

from __future__ import annotations

import math
import platform
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import torch
import transformers
import trl
from sacrebleu.metrics import CHRF

NEW_TOKENS = 20
CHRF_SCORER = CHRF()
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def chrf_reward(prompts, completions, reference, **_) -> list[float]:
    """chrF / 100 of each completion against its reference translation, in [0, 1]."""
    pairs = zip(completions, reference, strict=True)
    return [CHRF_SCORER.sentence_score(c.strip(), [r]).score / 100 for c, r in pairs]


@torch.no_grad()
def translate(model, tokenizer, prompts: list[str], greedy: bool = False) -> list[str]:
    """One response to each prompt, sampled at temperature 1 from torch's generator, or greedy."""
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    how = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0}
    ids = model.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        max_new_tokens=NEW_TOKENS,
        **how,
    )
    return tokenizer.batch_decode(ids[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)


def evaluate(model, tokenizer, pairs, samples: int, seed: int, greedy=False) -> torch.Tensor:
    """Mean reward of `samples` responses to each prompt: fp32 [prompts]."""
    torch.manual_seed(seed)
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i]["prompt"]))
    means = torch.zeros(len(pairs))
    for first in range(0, len(order), 256 // samples):
        chosen = order[first : first + 256 // samples]
        rows = [pairs[i] for i in chosen for _ in range(samples)]
        texts = translate(model, tokenizer, [r["prompt"] for r in rows], greedy)
        scores = chrf_reward(None, texts, [r["reference"] for r in rows])
        means[chosen] = torch.tensor(scores).view(-1, samples).mean(1)
    return means


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (Student's t over the values)."""
    half = T95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def facts() -> dict:
    """What the figures depend on: device, versions, commit, command."""
    cpu = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True)
    return {
        "device": cpu[0].split(": ")[1] if cpu else platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, trl)},
        "commit": commit.stdout.strip() or None,
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def report(seeds: list[dict], pairs, tokenizer, load) -> dict:
    """Prints the table and sample translations; returns the figures for the record.

    seeds: for each seed, {arm: (trained weights, rewards [prompts])}; "before" comes first, plain
    and targeted last. load: makes a model of an arm's weights.
    Two 95 % intervals: over the seeds (training and sampling anew, Student's t), and over the
    held-out prompts (another draw of prompts, differences averaged over the seeds).
    """
    arms = list(seeds[0])
    record = {"arms": {}, "seeds": len(seeds), "prompts": len(seeds[0]["before"][1])}
    print(f"\n{'':24}  {'reward':>6}  {'gain':>7}  95 % over seeds    95 % over prompts")
    for arm in arms:
        by_seed = [(s[arm][1].mean() - s["before"][1].mean()).item() for s in seeds]
        by_prompt = torch.stack([s[arm][1] - s["before"][1] for s in seeds]).mean(0)
        mean, half = interval(by_seed)
        half_prompts = 1.96 * by_prompt.std().item() / math.sqrt(len(by_prompt))
        reward = statistics.mean(s[arm][1].mean().item() for s in seeds)
        record["arms"][arm] = {
            "reward": reward,
            "reward_by_seed": [s[arm][1].mean().item() for s in seeds],
            "gain": mean,
            "gain_95_seeds": [mean - half, mean + half],
            "gain_95_prompts": [mean - half_prompts, mean + half_prompts],
            "moved": statistics.mean((s[arm][0] - s["before"][0]).norm().item() for s in seeds),
        }
        told = "" if arm == "before" else (
            f"{mean:+7.4f}  {mean - half:+.4f}..{mean + half:+.4f}"
            f"  {mean - half_prompts:+.4f}..{mean + half_prompts:+.4f}"
        )  # fmt: skip
        print(f"{arm:24}  {reward:6.4f}  {told}")
    ahead = [(s[arms[-1]][1].mean() - s[arms[-2]][1].mean()).item() for s in seeds]
    mean, half = interval(ahead)
    record["targeted_minus_plain"] = {"mean": mean, "95": [mean - half, mean + half]}
    print(
        f"targeted minus plain: {mean:+.4f}, 95 % over seeds {mean - half:+.4f}..{mean + half:+.4f}"
    )

    rows = [pairs[i] for i in range(0, len(pairs), len(pairs) // 4)][:4]
    best = max(arms, key=lambda arm: record["arms"][arm]["reward"])
    texts = {}
    for arm in ("before", best):
        torch.manual_seed(0)
        texts[arm] = translate(load(seeds[0][arm][0]), tokenizer, [r["prompt"] for r in rows])
    print(f"\nSamples at temperature 1, before and after ({best}, seed 0):")
    for i, row in enumerate(rows):
        print(f"\n  English    {row['source']}\n  reference  {row['reference']}")
        print(f"  before    {texts['before'][i]}\n  after     {texts[best][i]}")
    return record
