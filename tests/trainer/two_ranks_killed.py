"""Run by test_trainer_ranks_killed.py: two gloo ranks, killed (SIGKILL) at random instants and
started again, against an unbroken run. OUT gets found.json.

The libraries are loaded once: each start is a fork for each rank, made before any thread begins.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CI": "1"}
import torch
import trl.trainer.rloo_trainer  # noqa: F401
from trainer.tiny_llama import build_model, build_tokenizer, prompts, reward_digits
from trainer.tiny_trainer import arguments
from transformers import TrainerCallback

from zopro import ZOPrOConfig, ZOPrOTrainer
from zopro.digests import digest

OUT, KILLS = Path(sys.argv[1]), int(sys.argv[2])
STEPS, SAVED = 12, 50  # one checkpoint at most, at the end: the log and the ranks' progress alone
TIMES = ("runtime", "per_second", "step_time")


class Notes(TrainerCallback):
    """A line of `trace` at the start and after each step."""

    def __init__(self, trace):
        self._trace = trace

    def _note(self, kind, state):
        with open(self._trace, "a", encoding="utf-8") as file:
            file.write(f"{kind} {state.global_step}\n")

    def on_train_begin(self, args, state, control, **kwargs):
        self._note("begin", state)

    def on_step_end(self, args, state, control, **kwargs):
        self._note("step", state)


def train(folder, rank):
    """The run in `folder`, gone on with; rollouts serve two steps, and each rank has its own."""
    args = arguments(
        folder, ZOPrOConfig, max_steps=STEPS, save_strategy="steps", save_steps=SAVED, beta=0.0,
        num_generations=2, max_completion_length=6, num_iterations=2, learning_rate=1e-2,
        logging_steps=3, weight_decay=0.1,
    )  # fmt: skip
    notes = Notes(folder.with_name(f"{folder.name}.{rank}.trace"))
    t = ZOPrOTrainer(build_model(), reward_digits, args, prompts(64), callbacks=[notes],
                     processing_class=build_tokenizer())  # fmt: skip
    t.train(resume_from_checkpoint=True)
    history = [
        {n: v for n, v in e.items() if not any(word in n for word in TIMES)}
        for e in t.state.log_history
    ]
    seen = {"digest": digest(t.model.parameters()), "history": history}
    folder.with_name(f"{folder.name}.{rank}.json").write_text(json.dumps(seen))


def start(folder, rank, port):
    child = os.fork()
    if child:
        return child
    sys.stdout = sys.stderr = open(folder.with_name(f"{folder.name}.{rank}.out"), "a")  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                   "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    torch.set_num_threads(1)
    code = 1
    try:
        train(folder, rank)
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def both(folder, delay=None):
    """Starts both ranks; kills both after `delay` s. Whether they came to their end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [start(folder, rank, port) for rank in range(2)]
    until = time.monotonic() + (600 if delay is None else delay)
    ends = {}
    while len(ends) < 2 and time.monotonic() < until:
        for pid in set(ranks) - ends.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            ends |= {pid: status} if done else {}
        time.sleep(0.001)
    for pid in random.Random(str(delay)).sample(ranks, 2):
        if pid not in ends:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    for rank, pid in enumerate(ranks):
        if ends.get(pid, 0):
            raise SystemExit(folder.with_name(f"{folder.name}.{rank}.out").read_text()[-3000:])
    return len(ends) == 2


def again(trace):
    """How many whole steps each start did again."""
    done, found = None, []
    for line in trace.read_text().splitlines():
        kind, step = line.split()[0], int(line.split()[1])
        if kind == "begin" and done is not None:
            found.append(done - step)
        done = step
    return found


def ends(folder):
    return [json.loads(folder.with_name(f"{folder.name}.{r}.json").read_text()) for r in range(2)]


def main():
    whole, run, r = OUT / "whole", OUT / "run", random.Random(0)
    began = time.monotonic()
    both(whole)
    length, kills = time.monotonic() - began, 0
    for _ in range(KILLS):
        if both(run, r.uniform(0.35, 0.8) * length):
            break
        kills += 1
    else:
        both(run)
    traces = [OUT / f"run.{rank}.trace" for rank in range(2)]
    found = {
        "kills": kills,
        "whole": ends(whole),
        "run": ends(run),
        "again": [again(t) for t in traces],
        "begun": [int(x.split()[1]) for t in traces for x in t.read_text().splitlines()
                  if x.startswith("begin")],
    }  # fmt: skip
    (OUT / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
