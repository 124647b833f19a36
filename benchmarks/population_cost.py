"""What it costs to run each sequence of a batch along its own direction.

    python benchmarks/population_cost.py [--device cpu|cuda] [--budget 90] [--threads 2]

On a CPU the demo's model with LoRA of rank 8 on all linear layers, fp32, 64 sequences of 48 tokens;
on a GPU the shapes of SmolLM2 and of Llama-3.2-1B with random weights in bf16 and LoRA of rank 16,
in fp32 as peft makes it, 64 sequences of 256 tokens. Forwards in a population against plain ones
of the same model and batch, in turns. Recorded: tokens a second of both; the medians of the pairs'
quotients, by the clock and by the time of the processors; the peak of a forward's own memory.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import shapes
import torch
from harness import Cases, options, parsed
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from zopro import ZOPrO

MODEL = Path(__file__).parents[1] / "examples/translation/start"
SEQUENCES = 64
# Device -> tokens of a sequence, LoRA's rank, models.
SIZES = {
    "cpu": (48, 8, ("the demo's model",)),
    "cuda": (256, shapes.RANK, ("SmolLM2's shape", "a 1 B shape")),
}
BUILT = {"SmolLM2's shape": "135m", "a 1 B shape": "1b"}
# Directions, and the direction and sign of each sequence.
CASES = {
    "64 directions, one a sequence": (64, list(range(64)), 1),
    "32 directions, both signs": (32, [*range(32)] * 2, [1] * 32 + [-1] * 32),
    "8 directions, both signs, 4 sequences each": (
        8, [k for k in range(8) for _ in range(8)], ([1] * 4 + [-1] * 4) * 8,
    ),
    "1 direction, both signs": (1, [0] * 64, [1] * 32 + [-1] * 32),
}  # fmt: skip


def adapted(device: str, seed: int = 0, name: str = "") -> torch.nn.Module:
    """The demo's start, or the model `name` of BUILT, with adapters that are not 0."""
    torch.manual_seed(seed)
    if name in BUILT:
        model = shapes.build(BUILT[name], "bf16", device, "lora")
    else:
        model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).to(device)
        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
        model = get_peft_model(model, config).eval()
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.02)
    return model


def peak(forward: Callable[[], None]) -> int:
    """Bytes that `forward` holds at most beyond what was there before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        forward()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def seconds(forward: Callable[[], None], device: str) -> tuple[float, float]:
    """Of the clock, and of this process's processors, which other work does not lengthen."""
    began, used = time.perf_counter(), time.process_time()
    forward()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, time.process_time() - used


def measure(model, opt: ZOPrO, name: str, ids: torch.Tensor, share: float) -> dict:
    size, mapping, signs = CASES[name]
    device = ids.device.type

    def forward() -> None:
        model(ids, use_cache=False)

    pairs, end = [], time.monotonic() + share
    with torch.no_grad():
        forward()
        plain_bytes = peak(forward)
    with opt.population(size, mapping, signs=signs, model=model):
        extra = peak(forward) - plain_bytes
    while time.monotonic() < end or len(pairs) < 5:
        with torch.no_grad():
            plain = seconds(forward, device)
        with contextlib.ExitStack() as block:
            block.enter_context(opt.population(size, mapping, signs=signs, model=model))
            pairs.append((plain, seconds(forward, device)))
    plain, perturbed = (statistics.median(wall for wall, _ in x) for x in zip(*pairs))
    quotients = sorted(a / b for (a, _), (b, _) in pairs)
    processors = statistics.median(a / b for (_, a), (_, b) in pairs)
    tokens = ids.numel()
    return {
        "case": name, "pairs": len(pairs), "plain_tokens_s": tokens / plain,
        "population_tokens_s": tokens / perturbed, "share": statistics.median(quotients),
        "share_low": quotients[len(quotients) // 4], "share_high": quotients[-len(quotients) // 4],
        "processor_share": processors, "forward_bytes": plain_bytes, "extra_bytes": extra,
    }  # fmt: skip


def main() -> int:
    parser = options(__doc__, budget=90)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--remark", default="", help="what else the machine did meanwhile")
    args = parsed(parser)
    torch.set_num_threads(args.threads)
    tokens, rank, names = SIZES[args.device]
    cases, rows, trained = Cases(args.budget), [], {}
    share = args.budget / (len(CASES) * len(names) + 1)
    for name in names:
        model = cases.run(name, adapted, args.device, 0, name)
        if model is None:
            continue
        opt = ZOPrO(model.parameters(), eps=1e-2)
        ids = torch.randint(2, model.config.vocab_size, (SEQUENCES, tokens)).to(args.device)
        trained[name] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        for case in CASES:
            row = cases.run(f"{name}, {case}", measure, model, opt, case, ids, share)
            rows += [{"model": name, **row}] if row else []
            print(row, flush=True)
        del model, opt  # before the next one's weights
    facts = {"sequences": SEQUENCES, "tokens": tokens, "trained": trained, "rank": rank,
             "remark": args.remark + " " * bool(args.remark)}  # fmt: skip
    return cases.finish(args, "population_cost", {"rows": rows}, **facts)


if __name__ == "__main__":
    sys.exit(main())
