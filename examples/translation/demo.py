"""The demo: a small model translates better after zeroth-order training on a chrF reward.

    python examples/translation/demo.py

A Llama of 2.7 M parameters, trained from scratch on English-German package descriptions
(`train_start.py`; the checkpoint is in `start/`), is improved by `ZOPrOTrainer` on its own samples:
no gradient is ever computed. Only the gain of the last norm is trained, 192 numbers: averaged
over a few hundred responses, that few directions can be told from chance (the search that chose
the settings is benchmarks/demo_search.py). For each seed

  iteration 0     plain SPSA from the start checkpoint,
  iteration 1     targeted directions near iteration 0's update (ZOPrO), and, from the same point
                  with the same number of forward passes, plain SPSA again, to compare.

The reward is judged on prompts of the test split, which neither training nor the search has seen.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
import transformers
from judge import NEW_TOKENS, T95, chrf_reward, evaluate, facts, report
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from zopro import ZOPrOConfig, ZOPrOTrainer
from zopro.tasks.debian import translation_pairs

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
STEPS, SECOND_STEPS = 32, 16  # of iteration 0 and of iteration 1


def load(weights: torch.Tensor | None = None):
    """The start checkpoint in fp32, with the last norm's gain [192] replaced if given."""
    model = AutoModelForCausalLM.from_pretrained(START, dtype=torch.float32).eval()
    for name, p in model.named_parameters():
        p.requires_grad_(name == TRAINED)
    if weights is not None:
        model.get_parameter(TRAINED).data.copy_(weights)
    return model


class Bar(TrainerCallback):
    """Moves a shared progress bar and shows the reward of the last rollout."""

    def __init__(self, bar: tqdm, label: str):
        self.bar, self.label = bar, label

    def on_step_end(self, args, state, control, **_):
        self.bar.update()

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" in (logs or {}):
            self.bar.set_postfix_str(f"{self.label}, reward {float(logs['reward']):.3f}")


def train(weights, seed, steps, lr, pairs, tokenizer, bar, label, previous=None) -> torch.Tensor:
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
            callbacks=[Bar(bar, label)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        if previous is not None:
            trainer.set_targets({TRAINED: previous})
        trainer.train()
    return model.get_parameter(TRAINED).detach().clone()


def run_seed(seed: int, data: dict, tokenizer, bar, samples: int) -> dict:
    """All arms of one seed: {arm: (gain of the last norm [192], rewards [prompts])}."""
    start = load().get_parameter(TRAINED).detach().clone()
    common = (data["train"], tokenizer, bar)
    first = train(None, seed, STEPS, PLAIN_LR, *common, f"seed {seed}, plain")
    later = (first, seed + 1000, SECOND_STEPS)
    arms = {
        "before": start,
        "iteration 0": first,
        "plain": train(*later, PLAIN_LR, *common, f"seed {seed}, plain again"),
        "targeted": train(*later, TARGETED_LR, *common, f"seed {seed}, targeted", first - start),
    }
    results = {}
    for i, (arm, weights) in enumerate(arms.items()):
        bar.set_postfix_str(f"seed {seed}: judging {arm}")
        rewards = evaluate(load(weights), tokenizer, data["test"], samples, seed * 10 + i)
        results[arm] = (weights, rewards)
        bar.update()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="3 to 10 (default 3)")
    parser.add_argument("--samples", type=int, default=2, help="responses to a held-out prompt")
    parser.add_argument("--prompts", type=int, default=None, help="held-out prompts (default all)")
    parser.add_argument("--threads", type=int, default=min(4, torch.get_num_threads()))
    parser.add_argument("--cache-dir", default=None, help="where the sentence pairs are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for results")
    args = parser.parse_args()
    if args.seeds not in T95:
        parser.error(f"--seeds is {args.seeds}; an interval needs {min(T95)} to {max(T95)}")
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    began = time.time()
    data = {split: translation_pairs(split, args.cache_dir) for split in ("train", "test")}
    if args.prompts:
        data["test"] = data["test"].select(range(args.prompts))
    tokenizer = AutoTokenizer.from_pretrained(START)
    print(f"{len(data['train'])} training pairs, {len(data['test'])} held-out pairs")
    with tqdm(total=args.seeds * (STEPS + 2 * SECOND_STEPS + 4), unit="step") as bar:
        seeds = [run_seed(s, data, tokenizer, bar, args.samples) for s in range(args.seeds)]
    record = report(seeds, data["test"], tokenizer, load)
    record["seconds"] = round(time.time() - began, 1)
    record["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"\n{record['seconds']:.0f} s, peak memory {record['peak_memory_mb']} MB")
    record["settings"] = {**ROLLOUT, "plain_lr": PLAIN_LR, "targeted_lr": TARGETED_LR}
    record["settings"]["steps"] = [STEPS, SECOND_STEPS]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "demo.json").write_text(json.dumps({**record, **facts()}, indent=1) + "\n")
    print(f"results written to {args.out / 'demo.json'}")


if __name__ == "__main__":
    main()
