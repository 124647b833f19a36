"""How near a population's estimates come to the exact gradient, against the arithmetic.

    python benchmarks/population_cosine.py [--budget 280]

The demo's model with LoRA of rank 8 on all linear layers, fp32; responses sampled to prompts of the
translation task, rewarded by chrF, with leave-one-out advantages: the RLOO loss, whose exact
gradient autograd gives, response by response. Each trial scores 64 directions, both signs, on all
responses, in populations; estimates of 1, 4, 16 and 64 directions on all responses are read off the
same losses, and those with a direction a response, too. Recorded: root mean square cosines (with a
direction a response the mean, which has a sign), standard errors, what the arithmetic says.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import torch
from harness import RESULTS, record
from population_cost import MODEL, adapted
from transformers import AutoTokenizer

import zopro_kernels as zk
from zopro import ZOPrO
from zopro.tasks import get_task

DIRECTIONS, AT_ONCE, NEW_TOKENS, EPS = 64, 8, 16, 3e-3


def rollouts(model: Any, prompts: int, responses: int) -> tuple[torch.Tensor, ...]:
    """Tokens [B, L], mask of the responses' [B, L - 1], attention mask, advantages [B]."""
    task, tokenizer = get_task("translation"), AutoTokenizer.from_pretrained(MODEL)
    rows = task.load("validation", limit=prompts)
    texts = [r["prompt"] for r in rows for _ in range(responses)]
    given = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    torch.manual_seed(1)
    ids = model.generate(input_ids=given.input_ids, attention_mask=given.attention_mask,
                         max_new_tokens=NEW_TOKENS, do_sample=True, top_k=0)  # fmt: skip
    width = given.input_ids.shape[1]
    new = ids[:, width:]
    ended = (new == tokenizer.eos_token_id).cumsum(1)
    alive = (ended - (new == tokenizer.eos_token_id).long()) == 0
    answers = [tokenizer.decode(x[m], skip_special_tokens=True) for x, m in zip(new, alive)]
    columns = {k: [r[k] for r in rows for _ in range(responses)] for k in ("source", "reference")}
    (reward,) = task.reward_funcs()
    rewards = torch.tensor(reward(prompts=texts, completions=answers, **columns)).double()
    rewards = rewards.view(prompts, responses)
    others = (rewards.sum(1, keepdim=True) - rewards) / (responses - 1)
    attention = torch.cat([given.attention_mask, alive.long()], dim=1)
    answer = torch.zeros_like(ids)
    answer[:, width:] = alive
    return ids, answer[:, 1:], attention, (rewards - others).view(-1)


def losses(model: Any, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """-advantage times log probability of each response: [B]."""
    ids, answer, attention, advantages = batch
    kept = NEW_TOKENS + 1  # of the positions: the prompts' need no logits
    logits = model(
        input_ids=ids, attention_mask=attention, use_cache=False, logits_to_keep=kept
    ).logits
    logps = logits[:, :-1].log_softmax(-1).gather(2, ids[:, -NEW_TOKENS:, None]).squeeze(2)
    return -(logps.double() * answer[:, -NEW_TOKENS:]).sum(1) * advantages


def gradients(model: Any, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Exact, of each response's loss: fp64 [B, d]."""
    params = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for b in range(len(batch[0])):
        loss = losses(model, tuple(x[b : b + 1] for x in batch)).sum()
        rows.append(torch.cat([g.view(-1) for g in torch.autograd.grad(loss, params)]).double())
    return torch.stack(rows)


def trial(model: Any, opt: ZOPrO, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Slopes of each response along each direction, fp64 [K, B], and the step's own: [K]."""
    slopes, count = [], len(batch[0])
    with opt.population(DIRECTIONS, model=model) as pop:
        for first in range(0, DIRECTIONS, AT_ONCE):
            keys = [(k, s) for k in range(first, first + AT_ONCE) for s in (1, -1)]
            pop.map([k for k, _ in keys for _ in range(count)],
                    [s for _, s in keys for _ in range(count)])  # fmt: skip
            values = losses(model, tuple(x.repeat(len(keys), *[1] * (x.dim() - 1)) for x in batch))
            pop.losses(values)
            plus, minus = values.view(AT_ONCE, 2, count).unbind(1)
            slopes.append((plus - minus) / (2 * EPS))
    opt.step()
    return torch.cat(slopes), torch.tensor(opt.last.projected_gradients, dtype=torch.float64)


def directions(opt: ZOPrO, seed: int) -> torch.Tensor:
    """z of the step that had `seed`: fp32 [K, d]."""
    params = list(opt._indices)
    return torch.stack([
        torch.cat([zk.noise(p.numel(), seed, param=t, stream=k) for t, p in enumerate(params)])
        for k in range(DIRECTIONS)
    ])  # fmt: skip


def cosines(weights: torch.Tensor, z: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Of the estimates weights @ z, fp64 [N], with g; from inner products alone."""
    along = (z @ g.float()).double()
    gram = (z @ z.t()).double()
    lengths = ((weights @ gram) * weights).sum(1).sqrt()
    return weights @ along / (lengths * g.norm())


def estimates(slopes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights of the 64 directions in each estimate, [N, K]."""
    mean, count = slopes.mean(1), slopes.shape[1]
    out = {}
    for k in (1, 4, 16, 64):
        chosen = torch.eye(DIRECTIONS // k).repeat_interleave(k, dim=1)
        out[f"{k} on all"] = chosen.double() * mean
    rows = []
    for turn in range(0, DIRECTIONS, count):
        for shift in range(count):  # response b has direction turn + (b + shift) % count
            place = (torch.arange(count) + shift) % count
            own = torch.zeros(DIRECTIONS, dtype=torch.float64)
            own[turn + place] = slopes[turn + place, torch.arange(count)]
            rows.append(own)
    out["one a response"] = torch.stack(rows)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=280, help="seconds; no trial begins after")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--responses", type=int, default=4, help="of each prompt")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = adapted("cpu")
    batch = rollouts(model, args.prompts, args.responses)
    each = gradients(model, batch)
    g, d, count = each.sum(0), each.shape[1], len(each)
    rho = (g.norm() / each.norm()).item()
    opt = ZOPrO(model.parameters(), lr=0.0, eps=EPS)
    found: dict[str, list[torch.Tensor]] = {}
    end, trials = time.monotonic() + args.budget, 0
    while not trials or time.monotonic() < end:
        slopes, taken = trial(model, opt, batch)
        z = directions(opt, opt.last.seed)
        assert torch.allclose(taken, slopes.mean(1), rtol=1e-6), "the step took other slopes"
        for name, weights in estimates(slopes).items():
            found.setdefault(name, []).append(cosines(weights, z, g))
        trials += 1
        facts = {"d": d, "responses": count, "rho": rho, "eps": EPS, "trials": trials}
        record(RESULTS / "population_cosine.json", {**facts, "rows": summary(found, rho, d)})
    for row in summary(found, rho, d):
        print(row)


def summary(found: dict[str, list[torch.Tensor]], rho: float, d: int) -> list[dict[str, Any]]:
    """A row for each estimate: what was measured beside what the arithmetic says."""
    rows = []
    for name, parts in found.items():
        x = torch.cat(parts)
        if name == "one a response":
            measured, error = x.mean(), x.std() / math.sqrt(len(x))
            expected = rho / math.sqrt(d)
        else:
            square, error = x.square().mean(), x.square().std(correction=0) / math.sqrt(len(x))
            measured, error = square.sqrt(), error / (2 * square.sqrt())
            expected = math.sqrt(int(name.split()[0]) / d)
        rows.append({"estimate": name, "estimates": len(x), "measured": measured.item(),
                     "standard_error": error.item(), "arithmetic": expected})  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
