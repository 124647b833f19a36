"""The demo: a small model translates better after zeroth-order training on a chrF reward.

    python examples/translation/demo.py

A Llama of 2.7 M parameters, trained from scratch on English-German package descriptions
(`train_start.py`; the checkpoint is in `start/`), is improved by `ZOPrOTrainer` on its own samples:
no gradient is ever computed. Only the gain of the last norm is trained, 192 numbers: the noise of
a zeroth-order estimate grows with their count, and they scale the logits, whose sharpening alone
raises the reward of samples (benchmarks/demo_search.py is the search that chose the settings).
For each seed

  iteration 0     plain SPSA from the start checkpoint,
  iteration 1     targeted directions near iteration 0's update (ZOPrO), and, from the same point
                  with the same number of forward passes, plain SPSA again, to compare.

The reward is judged on prompts of the test split, which neither training nor the search has seen.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from pathlib import Path

import torch
import transformers
from judge import NEW_TOKENS, T95, chrf_reward, evaluate, facts, report
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from zopro import ZOPrOConfig, ZOPrOTrainer
from zopro.tasks.debian import translation_pairs

RUSAGE = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
START = Path(__file__).parent / "start"
TRAINED = "model.norm.weight"

# Found by benchmarks/demo_search.py; eps and lr are those of zopro.ZOPrO.
ROLLOUT = {
    "num_generations": 8,  # responses to each prompt
    "per_device_train_batch_size": 64,  # responses of a step
    "steps_per_generation": 4,  # 256 responses a rollout
    "num_iterations": 2,  # sweeps of a rollout
    "zo_num_directions": 4,
    "zo_estimator": "one_sided",
    "zo_eps": 0.02,
}
PLAIN_LR, TARGETED_LR = 1.0, 1.0
ARMS = ("before", "iteration 0", "plain", "targeted")
STEPS, SECOND_STEPS = 32, 16  # of iteration 0 and of iteration 1


def load(weights: torch.Tensor | None = None):
    """The start checkpoint in fp32, with the last norm's gain [192] replaced if given."""
    model = AutoModelForCausalLM.from_pretrained(START, dtype=torch.float32).eval()
    for name, p in model.named_parameters():
        p.requires_grad_(name == TRAINED)
    if weights is not None:
        model.get_parameter(TRAINED).data.copy_(weights)
    return model


class Reporter(TrainerCallback):
    """Sends (steps done, text) to the process that shows the progress bar."""

    def __init__(self, messages, label: str):
        self.messages, self.label = messages, label

    def on_step_end(self, args, state, control, **_):
        self.messages.put((1, None))

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" in (logs or {}):
            self.messages.put((0, f"{self.label}: reward {float(logs['reward']):.3f}"))


def train(weights, seed, steps, lr, pairs, tokenizer, reporter, previous=None) -> torch.Tensor:
    """One iteration of `steps` steps from `weights` (None: the start checkpoint).

    previous: the update [192] near which directions are drawn, None for plain SPSA.
    Returns: the last norm's gain that is reached, fp32 [192].
    """
    model = load(weights)
    with tempfile.TemporaryDirectory() as folder:
        config = ZOPrOConfig(
            output_dir=folder,
            learning_rate=lr,
            lr_scheduler_type="constant",
            max_steps=steps,
            gradient_accumulation_steps=1,
            max_completion_length=NEW_TOKENS,
            temperature=1.0,
            beta=0.0,  # no KL term: so few numbers cannot take the model far
            epsilon=1e3,  # no clip: it would cut off what one of two perturbed losses says
            normalize_advantages=True,
            seed=seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **ROLLOUT,
        )
        trainer = ZOPrOTrainer(
            model=model,
            reward_funcs=[chrf_reward],
            args=config,
            train_dataset=pairs,
            processing_class=tokenizer,
            callbacks=[reporter],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        if previous is not None:
            trainer.set_targets({TRAINED: previous})
        trainer.train()
    return model.get_parameter(TRAINED).detach().clone()


def run_arm(arm: str, seed: int, weights, messages, options: dict) -> tuple:
    """Trains one arm of one seed, in a process of its own, and judges it on held-out prompts.

    weights: those to begin with, [192], or None for the start checkpoint.
    Returns: arm, seed, the trained weights [192], the mean reward of each held-out prompt.
    """
    torch.set_num_threads(1)  # a core a process: arms in parallel scale better than their matrices
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(START)
    start = load().get_parameter(TRAINED).detach().clone()
    if arm == "before":
        weights = start
    else:
        previous = weights - start if arm == "targeted" else None
        # Both arms of iteration 1 see the same prompts.
        seed_of_run = seed if arm == "iteration 0" else seed + 1000
        steps = STEPS if arm == "iteration 0" else SECOND_STEPS
        lr = TARGETED_LR if arm == "targeted" else PLAIN_LR
        pairs = translation_pairs("train", options["cache_dir"])
        reporter = Reporter(messages, f"{arm}, seed {seed}")
        weights = train(weights, seed_of_run, steps, lr, pairs, tokenizer, reporter, previous)
    held_out = translation_pairs("test", options["cache_dir"])
    held_out = held_out.select(range(min(options["prompts"], len(held_out))))
    judging_seed = 10 * seed + ARMS.index(arm)
    rewards = evaluate(load(weights), tokenizer, held_out, options["samples"], judging_seed)
    messages.put((1, None))
    return arm, seed, weights, rewards


def run_all(seeds: int, pool: Executor, messages, options: dict) -> list[dict]:
    """All arms of all seeds: for each seed {arm: (weights [192], rewards [prompts])}."""
    results = [{} for _ in range(seeds)]
    waiting = {
        pool.submit(run_arm, "iteration 0", s, None, messages, options) for s in range(seeds)
    }
    waiting |= {pool.submit(run_arm, "before", s, None, messages, options) for s in range(seeds)}
    with tqdm(total=seeds * (STEPS + 2 * SECOND_STEPS + len(ARMS)), unit="step") as bar:
        while waiting:
            done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                arm, seed, weights, rewards = future.result()
                results[seed][arm] = (weights, rewards)
                if arm == "iteration 0":  # what iteration 1 begins from
                    for later in ARMS[2:]:
                        waiting.add(pool.submit(run_arm, later, seed, weights, messages, options))
            while not messages.empty():
                steps, text = messages.get()
                bar.update(steps)
                if text:
                    bar.set_postfix_str(text)
    return [{arm: result[arm] for arm in ARMS} for result in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="3 to 10 (default 3)")
    parser.add_argument("--samples", type=int, default=1, help="responses to a held-out prompt")
    parser.add_argument("--prompts", type=int, default=10**6, help="held-out prompts (default all)")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(6, len(os.sched_getaffinity(0))),
        help="arms trained at a time, one core each (default: as many as cores)",
    )
    parser.add_argument("--cache-dir", default=None, help="where the sentence pairs are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for results")
    args = parser.parse_args()
    if args.seeds not in T95:
        parser.error(f"--seeds is {args.seeds}; an interval needs {min(T95)} to {max(T95)}")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    began = time.time()
    data = {split: translation_pairs(split, args.cache_dir) for split in ("train", "test")}
    print(f"{len(data['train'])} training pairs, {len(data['test'])} held-out pairs")
    options = {k: getattr(args, k) for k in ("cache_dir", "prompts", "samples")}
    spawn = multiprocessing.get_context("spawn")
    # Of the processes to come. glibc gives freed tensors back to the kernel and faults their pages
    # in again: 20.0 s for eight steps, 13.4 s without (one core of an AMD EPYC), for 200 MB more.
    keep = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2000000000"}
    os.environ.update({"OMP_NUM_THREADS": "1", **keep})
    with spawn.Manager() as manager, ProcessPoolExecutor(args.workers, spawn) as pool:
        seeds = run_all(args.seeds, pool, manager.Queue(), options)
    record = report(seeds, data["test"], AutoTokenizer.from_pretrained(START), load)
    record["seconds"] = round(time.time() - began, 1)
    peak = max(resource.getrusage(who).ru_maxrss for who in RUSAGE)  # KiB on Linux
    record["peak_memory_mb"], record["workers"] = peak // 1024, args.workers
    print(
        f"\n{record['seconds']:.0f} s with {args.workers} processes,"
        f" peak memory of one {record['peak_memory_mb']} MB"
    )
    record["settings"] = {**ROLLOUT, "plain_lr": PLAIN_LR, "targeted_lr": TARGETED_LR}
    record["settings"]["steps"] = [STEPS, SECOND_STEPS]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "demo.json").write_text(json.dumps({**record, **facts()}, indent=1) + "\n")
    print(f"results written to {args.out / 'demo.json'}")


if __name__ == "__main__":
    main()
