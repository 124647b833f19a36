"""`zopro train`: the whole method, from flags or a YAML file."""

from __future__ import annotations

import dataclasses
import re
import warnings
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments

from zopro.iterations import EndpointJudge, IterationConfig, LocalJudge, iterate
from zopro.iterations.config import METHODS, OPTIONS
from zopro.iterations.training import BACKWARD, fields_for
from zopro.trainer import ZOPrOConfig

from .errors import CommandError, sentence
from .judge import Rows, TaskJudge
from .models import checked_model, lengths, task_of, tokenizer_of
from .options import FieldParser, fields_of, given, json_mapping, or_none
from .progress import Between, StopAtStep, check_reports, shown
from .record import Record

ABOUT = """Runs the whole method: supervised start (with --supervised '{}' or --supervised.FIELD),
reward model, and iterations of policy, pairs, judge and refinement; with --rewards it takes these
functions instead of a reward model. Run again, it goes on where it was.

Flags: those below, and every field of ZOPrOConfig. What every trainer has (batch size, epochs,
max_steps, report_to, ...) is for all phases; learning rate, weight decay and their schedule are for
the policy's phases of the chosen method. One phase alone: --SECTION.FIELD VALUE, with the sections
trainer, supervised, reward, refine, policy, first_order, zeroth. A YAML file has the same names
(a section is a mapping); flags win over it; "none" is no value."""

# Of the optimizer: for the policy's phases of the method alone.
LEARNING = ("learning_rate", "weight_decay", "lr_scheduler_type", "lr_scheduler_kwargs",
            "warmup_steps", "warmup_ratio")  # fmt: skip
# Of the first-order phases of the policy alone.
ADAM = ("optim", "optim_args", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon")


@dataclass
class TrainFlags:
    """What `zopro train` takes beside the fields of the configurations."""

    task: str = field(default="", metadata={"help": "A task's name (`zopro data list`)."})
    source: str | None = field(
        default=None, metadata={"help": "An origin of the task, or a .jsonl or .parquet file."}
    )
    limit: int | None = field(default=512, metadata={"help": "Rows to train on; none: all."})
    rewards: list[str] | None = field(
        default=None,
        metadata={"help": "The task's reward functions ('default' for its default one) instead "
                  "of a reward model."},
    )  # fmt: skip
    judge: str = field(
        default="task",
        metadata={"help": "'task' compares by the task's reward function; else a local chat model, "
                  "or the http(s) address of an OpenAI-compatible endpoint, up to /v1."},
    )  # fmt: skip
    judge_model: str | None = field(default=None, metadata={"help": "The endpoint's model."})
    judge_key_env: str | None = field(
        default=None, metadata={"help": "The variable that holds the endpoint's key."}
    )


def parser() -> FieldParser:
    """The parser of every flag of the command but the dotted ones."""
    own = fields_of(IterationConfig, "IterationFlags")
    usage = "zopro train --task T --model M [--config FILE] [options]"
    classes = [ZOPrOConfig, TrainFlags, own]
    made = FieldParser(classes, prog="zopro train", description=ABOUT, usage=usage)
    for action in made._actions:
        if action.dest in ("lora_r", "limit"):
            action.type = or_none(action.type)
        if action.dest == "method":
            action.help = f"One of {', '.join(METHODS)} (default: zopro)"
        if action.dest == "learning_rate":
            action.help = ("Of the policy's phases of the chosen method (default: 5e-5 for rloo, "
                           "else 10 / number of trained weights, at alpha / r = 2)")  # fmt: skip
        if action.dest == "num_train_epochs":
            action.help = "Epochs of every phase (default: 1)"
    for section, cls in OPTIONS.items():
        made.add_argument(f"--{section}", type=or_none(json_mapping), default=SUPPRESS,
                          metavar="JSON", help=f"fields of {cls.__name__}")  # fmt: skip
    made.order(OPTIONS)
    return made


def run(argv: Sequence[str]) -> int:
    """Trains to the end, or goes on with an interrupted run; leaves the policy in its folder."""
    values = given(parser(), argv, OPTIONS)
    own = {f.name for f in dataclasses.fields(TrainFlags)}
    flags = TrainFlags(**{n: v for n, v in values.items() if n in own})
    task = task_of(values)
    model = checked_model(values.get("model"))
    tokenizer = tokenizer_of(values["model"])
    options = routed({n: v for n, v in values.items() if n not in own})
    options.setdefault("max_completion_length", task.max_completion_length)
    options["max_prompt_length"] = lengths(
        model, options.get("max_prompt_length"), options["max_completion_length"]
    )
    options.setdefault("output_dir", default_folder(flags.task, options))
    options["trainer"] = {"num_train_epochs": 1, **options.get("trainer", {})}
    config = IterationConfig.from_dict(options)

    rewards = _rewards(task, flags)
    _refuse_unread(config, network=not rewards)
    _try_trainers(config, network=not rewards)
    rows = Rows(task)
    judge = None if rewards else _judge(rows, flags, config)
    stop = StopAtStep(config.output_dir)
    record = Record(config.output_dir, {**dataclasses.asdict(flags), **config.to_dict()},
                    ["train", *argv])  # fmt: skip
    with shown(), stop.listening():
        out = iterate(
            config, rows, judge=judge, reward_funcs=rewards, tokenizer=tokenizer,
            callbacks=[record, stop, Between()],
            load={"source": flags.source, "limit": flags.limit},
        )  # fmt: skip
        _leave(out, config)
    return 0


def routed(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of ZOPrOConfig into the sections of IterationConfig whose phases they are for."""
    own = {f.name for f in dataclasses.fields(IterationConfig)}
    common = {f.name for f in dataclasses.fields(TrainingArguments)}
    learning = "first_order" if values.get("method") == "rloo" else "zeroth"
    options = {name: value for name, value in values.items() if name in own}
    for name, value in values.items():
        if name in own:
            continue
        if name == "zo_schedule":
            options.setdefault("schedule", value)
            continue
        if name in ADAM:
            section = "first_order"
        elif name in LEARNING:
            section = learning
        elif name.startswith("zo_"):
            section = "zeroth"
        else:
            section = "trainer" if name in common else "policy"
        options[section] = {name: value, **(options.get(section) or {})}
    return options


def _refuse_unread(config: IterationConfig, network: bool) -> None:
    """CommandError for an option that only phases read which this run does not have."""
    methods = {config.first, config.method}  # a run may be given more iterations later
    how = f"first={config.first!r} and method={config.method!r}"
    for section, runs in (("first_order", "rloo" in methods), ("zeroth", methods != {"rloo"})):
        for name in () if runs else getattr(config, section):
            kind = "first-order" if section == "first_order" else "zeroth-order"
            raise CommandError(f"{name} is refused: with {how} no phase of the policy is {kind}; "
                               "leave it out")  # fmt: skip
    if network or config.supervised is not None or "rloo" in methods:
        return
    for name in config.trainer:
        if name in BACKWARD:
            raise CommandError(f"{name} is refused: with {how} and no reward model no phase has a "
                               "backward pass; leave it out")  # fmt: skip


def _try_trainers(config: IterationConfig, network: bool) -> None:
    """Makes each phase's configuration once: a bad value is told now, not hours later."""
    methods = {config.first, *([config.method] if config.iterations > 1 else [])}
    tried = {"supervised": config.supervised}
    if network:
        tried |= {"reward": config.reward, "refine": config.refine}
    if "rloo" in methods:
        tried["first_order"] = {**config.policy, **config.first_order}
    if methods - {"rloo"}:
        tried["zeroth"] = {**config.policy, **config.zeroth}
    for section, options in tried.items():
        if options is None:
            continue
        cls = OPTIONS[section]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the phase itself will say it
                made = cls(config.output_dir, **fields_for(cls, config, options, {}))
        except (TypeError, ValueError, ImportError) as error:
            raise CommandError(f"{section}: {sentence(error)}") from error
        if made.eval_strategy != "no":
            raise CommandError(
                f"eval_strategy={str(made.eval_strategy.value)!r} is refused: a run holds no "
                "evaluation data; `zopro eval` scores what it leaves"
            )
        check_reports(made.report_to)


def default_folder(task: str, options: dict[str, Any]) -> str:
    """runs/TASK-MODEL-METHOD: the same command finds its run again."""
    model = re.sub(r"[^\w.-]+", "-", Path(options["model"]).name or "model")
    return str(Path("runs") / f"{task}-{model}-{options.get('method', 'zopro')}")


def _rewards(task: Any, flags: TrainFlags) -> list[Any] | None:
    if not flags.rewards:
        return None
    return task.reward_funcs(*[n for n in flags.rewards if n != "default"])


def _judge(rows: Rows, flags: TrainFlags, config: IterationConfig) -> Any:
    if flags.judge == "task":
        return TaskJudge(rows, config.reward_timeout, config.batch_size)
    if flags.judge.startswith(("http://", "https://")):
        if not flags.judge_model:
            raise CommandError("judge_model is missing: name the endpoint's model")
        return EndpointJudge(flags.judge, flags.judge_model, flags.judge_key_env)
    checked_model(flags.judge)
    return LocalJudge(flags.judge)


def _leave(out: Any, config: IterationConfig) -> None:
    """The policy as from_pretrained takes it: the adapter, or all weights where the base moved."""
    if not PartialState().is_main_process:
        return
    folder = out.folder / "policy"
    policy = out.policy
    if hasattr(policy, "merge_and_unload") and config.supervised is None:
        policy.save_pretrained(str(folder), selected_adapters=["default"])
        how = f"--model {config.model} --adapter {folder}"
    else:
        whole = getattr(policy, "merge_and_unload", lambda: policy)()
        whole.save_pretrained(str(folder))
        how = f"--model {folder}"
    out.tokenizer.save_pretrained(str(folder))
    print(f"done: {folder}; `zopro eval {how}` scores it")
