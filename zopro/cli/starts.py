"""`zopro sft` and `zopro reward`: TRL's SFTTrainer and RewardTrainer on a task, with LoRA.

zopro sft    --task T --model M --merge --output_dir S     a whole model, for the next two
zopro reward --task T --model S --output_dir R             from pairs, or --reward_data scores
zopro train  --task T --model S --reward_model R
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, TrainerCallback
from trl import RewardConfig, SFTConfig

from zopro.files import append, locked, write_beside
from zopro.iterations.config import REWARD_DATA
from zopro.iterations.models import prepare_tokenizer
from zopro.iterations.policy import SupervisedTrainer
from zopro.iterations.reward import CENTRED, PairTrainer, ScoreTrainer
from zopro.iterations.training import go_on

from .errors import CommandError
from .models import checked_model, task_of, tokenizer_of
from .options import FieldParser, given, or_none
from .progress import StopAtStep, check_reports, shown
from .record import Record


@dataclass
class StartFlags:
    """What both commands take beside TRL's fields."""

    task: str = field(default="", metadata={"help": "A task's name (`zopro data list`)."})
    model: str = field(default="", metadata={"help": "A model's folder, or its name on the hub."})
    source: str | None = field(
        default=None, metadata={"help": "An origin of the task, or a .jsonl or .parquet file."}
    )
    limit: int | None = field(default=None, metadata={"help": "Rows to train on (default: all)."})
    dtype: str = field(default="float32", metadata={"help": "To load the model in."})
    lora_r: int | None = field(
        default=64, metadata={"help": "Rank of the LoRA adapter; none: all weights."}
    )
    lora_alpha: int = field(default=128, metadata={"help": "As in PEFT."})
    lora_dropout: float = field(default=0.0, metadata={"help": "As in PEFT."})


@dataclass
class SFTFlags(StartFlags):
    """Those of `zopro sft`."""

    merge: bool = field(
        default=False,
        metadata={"help": "Leave the whole model, the adapter merged into it, for `zopro reward` "
                  "and `zopro train` to take as --model."},
    )  # fmt: skip
    max_prompt_length: int | None = field(
        default=None,
        metadata={"help": "Cut longer prompts to so many tokens, as `zopro train` cuts those of "
                  "rollouts (default: rows over max_length are left out)."},
    )  # fmt: skip


@dataclass
class RewardFlags(StartFlags):
    """Those of `zopro reward`."""

    reward_data: str = field(
        default="auto",
        metadata={"help": "Learn from 'pairs' (columns source, chosen, rejected) or, by "
                  "regression, from 'scores' (source, completion, score); 'auto': scores where "
                  "the data have them and no human pairs."},
    )  # fmt: skip


class Lines(TrainerCallback):
    """Every log as a line of metrics.jsonl."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / "metrics.jsonl"

    def on_train_begin(self, args, state, control, **kwargs):
        # Steps after the checkpoint are done again.
        if state.is_world_process_zero and self._path.is_file():
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            rows = [(x, json.loads(x)) for x in lines if x.endswith("\n")]
            kept = [x for x, row in rows
                    if row["step"] <= state.global_step and "train_runtime" not in row]  # fmt: skip
            write_beside(self._path, "".join(kept))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            append(self._path, json.dumps({"step": state.global_step, **logs}) + "\n")


STARTS = {"sft": (SFTConfig, SFTFlags), "reward": (RewardConfig, RewardFlags)}


def run(argv: Sequence[str], command: str) -> int:
    """Trains to the end, or goes on from the folder's newest checkpoint; leaves the model there."""
    args_cls, flags_cls = STARTS[command]
    usage = f"zopro {command} --task T --model M [--config FILE] [options]"
    parser = FieldParser([args_cls, flags_cls], prog=f"zopro {command}", usage=usage)
    for action in parser._actions:
        if action.dest == "lora_r":
            action.type = or_none(int)
        if action.dest == "num_train_epochs":
            action.help = "Epochs (default: 1)"
    values = given(parser, argv)
    own = {f.name for f in dataclasses.fields(flags_cls)}
    flags = flags_cls(**{n: v for n, v in values.items() if n in own})
    task = task_of(values)
    room = getattr(checked_model(flags.model).get_text_config(), "max_position_embeddings", None)
    tokenizer = tokenizer_of(flags.model)
    prepare_tokenizer(tokenizer)
    if command == "reward" and flags.reward_data not in REWARD_DATA:
        raise CommandError(f"reward_data={flags.reward_data!r} is not known: use one of "
                           f"{', '.join(REWARD_DATA)}")  # fmt: skip
    options = {n: v for n, v in values.items() if n not in own}
    name = re.sub(r"[^\w.-]+", "-", Path(flags.model).name or "model")
    options.setdefault("output_dir", str(Path("runs") / f"{flags.task}-{name}-{command}"))
    folder = options["output_dir"]
    settings = {"report_to": "none", "save_total_limit": 1, "save_steps": 50, "bf16": False,
                "num_train_epochs": 1, "gradient_checkpointing": False,
                "max_length": min(1024, room or 1024),
                **(CENTRED if command == "reward" else {}), **options}  # fmt: skip
    args = args_cls(**settings)
    check_reports(args.report_to)
    _refuse_another(folder, flags, options)
    make = _trainer(command, task, flags, tokenizer, args)
    stop = StopAtStep(folder)
    record = Record(folder, {**dataclasses.asdict(flags), **options}, [command, *argv])
    with shown(), stop.listening(), contextlib.ExitStack() as held:
        trainer = make([record, Lines(folder), stop])
        if len(trainer.train_dataset) == 0:
            raise CommandError(f"every row is over max_length={args.max_length} tokens: raise it, "
                               "or shorten the texts")  # fmt: skip
        if trainer.is_world_process_zero():
            held.enter_context(locked(Path(folder)))
        go_on(trainer, lambda step: None)  # Lines does it
        if getattr(flags, "merge", False) and flags.lora_r is not None:
            if trainer.is_world_process_zero():
                trainer.model.merge_and_unload().save_pretrained(folder)
        else:
            trainer.save_model(folder)
        if trainer.is_world_process_zero():
            tokenizer.save_pretrained(folder)
            print(f"done: {folder}{_next(command, flags, folder)}")
    return 0


def _next(command: str, flags: Any, folder: str) -> str:
    if flags.lora_r is None:
        return ""
    if command == "sft":
        return "" if flags.merge else f"; `zopro eval --adapter {folder}` scores it"
    same = f" --lora_r {flags.lora_r} --lora_alpha {flags.lora_alpha}"
    same = "" if (flags.lora_r, flags.lora_alpha) == (64, 128) else same
    return f"; `zopro train --model {flags.model} --reward_model {folder}{same}` goes on from it"


def _refuse_another(folder: str, flags: StartFlags, options: dict[str, Any]) -> None:
    import yaml

    path = Path(folder) / "config.yaml"
    if Path(folder).is_dir() and any(Path(folder).iterdir()) and not path.is_file():
        raise CommandError(f"output_dir={folder!r} is not empty and holds no run: name a new one")
    if not path.is_file():
        return
    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    now = yaml.safe_load(yaml.safe_dump({**dataclasses.asdict(flags), **options}))
    for name in sorted(set(before) | set(now)):
        if before.get(name) != now.get(name):
            raise CommandError(
                f"{name}={now.get(name)!r}, but the run in {folder!r} began with "
                f"{before.get(name)!r}: give the same, or name a new folder"
            )


def _trainer(command: str, task: Any, flags: StartFlags, tokenizer: Any, args: Any) -> Any:
    """A function of the callbacks that makes the trainer; data are read before the model is."""
    load = {"limit": flags.limit, "conversational": tokenizer.chat_template is not None}
    read = task.supervised
    if command == "reward":
        learns = flags.reward_data
        learns = task.feedback("train", flags.source) if learns == "auto" else learns
        read = task.scored if learns == "scores" else task.preference_pairs
    elif flags.max_prompt_length is not None:
        if flags.max_prompt_length < 1:
            raise CommandError(f"max_prompt_length={flags.max_prompt_length} is not allowed: give "
                               "at least 1, or leave it out")  # fmt: skip
        load["fit"] = tokenizer, flags.max_prompt_length
    data = read("train", flags.source, **load)
    lora = None
    if flags.lora_r is not None:
        if flags.lora_r < 1:
            raise CommandError(f"lora_r={flags.lora_r} is not allowed: give at least 1, or none")
        kind = "CAUSAL_LM" if command == "sft" else "SEQ_CLS"
        lora = LoraConfig(r=flags.lora_r, lora_alpha=flags.lora_alpha, task_type=kind,
                          lora_dropout=flags.lora_dropout, target_modules="all-linear")  # fmt: skip

    def make(callbacks: list[TrainerCallback]) -> Any:
        common = {"args": args, "train_dataset": data, "processing_class": tokenizer,
                  "peft_config": lora, "callbacks": callbacks}  # fmt: skip
        torch.manual_seed(args.seed)  # the adapter's and the head's initial values
        if command == "sft":
            args.model_init_kwargs = {"dtype": flags.dtype, "trust_remote_code": False,
                                      "use_safetensors": True}  # fmt: skip
            return SupervisedTrainer(flags.model, **common)
        model = AutoModelForSequenceClassification.from_pretrained(
            flags.model,
            num_labels=1,
            dtype=flags.dtype,
            use_safetensors=True,
            trust_remote_code=False,
        )
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        if learns == "pairs":
            return PairTrainer(model, **common)
        common.pop("peft_config")
        return ScoreTrainer(model if lora is None else get_peft_model(model, lora), **common)

    return make
