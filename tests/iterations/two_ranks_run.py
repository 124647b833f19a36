"""Run by test_iterations_ranks.py on each of two ranks: what they saw goes to OUT/rank<i>.json."""

import json
import os
import sys
from pathlib import Path

import torch
from iterations.tiny_run import longer, run

from zopro.digests import digest

torch.set_num_threads(1)
OUT, RANK = Path(sys.argv[1]), int(os.environ["RANK"])
asked = []


def judge(prompts, firsts, seconds):
    asked.append(len(prompts))
    return longer(prompts, firsts, seconds)


def fails(prompts, firsts, seconds):
    raise OSError("no answer")


policy = {"num_generations": 2, "beta": 0.05}
out = run(OUT / "run", judge=judge, policy=policy)
own = [*out.reward.own().values()]
seen = {
    "phases": out.phases,
    "asked": len(asked),
    "policy": digest(p for p in out.policy.parameters() if p.requires_grad),
    "reward": digest(own),
}
try:
    run(OUT / "fails", judge=fails, iterations=1)
except RuntimeError as error:
    seen["error"] = str(error)
(OUT / f"rank{RANK}.json").write_text(json.dumps(seen))
