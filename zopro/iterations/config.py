"""The options of a run of iterations."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from trl import RewardConfig, RLOOConfig, SFTConfig

from zopro import checks
from zopro.trainer import ZOPrOConfig

METHODS = ("zopro", "spsa", "rloo")
FIRST = ("rloo", "spsa")
OBJECTIVES = ("rloo", "samples")
TRAIN = ("lora", "last_norm", "norms", "all")
REWARD_DATA = ("auto", "pairs", "scores")
REFERENCES = ("base", "previous")

# Options of the trainers that the driver sets: a phase has its own folder and seeds.
OWNED = ("output_dir", "seed", "data_seed", "zo_seed", "resume_from_checkpoint", "zo_schedule",
         "max_completion_length", "temperature", "save_steps", "save_strategy",
         "zo_sketch_every")  # fmt: skip
OPTIONS = {
    "trainer": TrainingArguments,
    "supervised": SFTConfig,
    "reward": RewardConfig,
    "refine": RewardConfig,
    "policy": RLOOConfig,
    "first_order": RLOOConfig,
    "zeroth": ZOPrOConfig,
}


@dataclass
class IterationConfig:
    """What `iterate` does: numbers, strings, lists and mappings of these, as JSON and YAML hold.

    The run:
        output_dir: the run's folder; see `iterations.store`.
        model: name or folder of a causal language model; None where `iterate` is given one.
        dtype: to load it in: "float32", "bfloat16", "float16", "auto" (as stored; a CPU: float32).
        iterations: policy phases with their refinements, >= 1.
        seed: of everything; each phase derives its own.
        resume: True continues what the folder holds; False starts anew, in an empty folder only.
        save_steps: optimizer steps between checkpoints, >= 1; ten a first-order phase at least.
        sketch_every: optimizer steps between sketches of policy and reward model, for
            `zopro.analysis`; None: 20 in a phase; 0: none.

    Method (ZOPrO, arXiv 2503.03460):
        method: of the iterations after the first: "zopro" (targeted directions), "spsa" (plain
            ones), or "rloo" (first-order, arXiv 2402.14740).
        first: of iteration 0, which has no previous update: "rloo" or "spsa".
        objective: of zeroth-order phases: "rloo", or "samples", the mean reward of fresh samples
            at the perturbed weights, which needs no log-probabilities.
        common_samples: with "samples": both signs draw with the same random numbers.
        schedule, half_life: of the previous update's weight d; see `ZOPrO.set_targets`.
        project: whether "zopro" makes its noise orthogonal to the reward model's update.
        reference: of the KL penalty, with `beta` in `policy`: "base", the base with the adapter
            off, or "previous", the adapter as the phase found it.

    What is trained, and adapters (on the linear layers of one shared base):
        train: of the policy: "lora", "last_norm" (the norm behind the last layer), "norms" (every
            norm), or "all" weights (with plain reward functions only, as lora_r=None).
        lora_r: rank, >= 1; None trains all weights.
        lora_alpha, lora_dropout, target_modules: as in PEFT; target_modules None: all linear.
        reward_lora_r: the reward model's rank; None takes lora_r, and "zopro" needs that.

    Data:
        max_prompt_length, max_completion_length: tokens, >= 1.
        temperature: of sampling, > 0.
        reward_data: the first reward model learns from "pairs" or, by regression, "scores";
            "auto": scores where the data have them and no human pairs.
        reward_model: folder of the first reward model, as `zopro reward` leaves it (a LoRA
            adapter of lora_alpha and the reward's rank, with its head); None trains one.
        boundary: share of the prompts whose score is nearest 0 that are judged, in (0, 1].
        blend: share of its previous self in a refined reward model, in [0, 1).
        chunk: the reward model is refined after each such share of an iteration's prompts, in
            (0, 1): 0.05 makes 20 equal parts; None refines once, at the end.
        reward_timeout: seconds that a reward function may take for a batch, > 0; None: no limit.
        batch_size: prompts scored or sampled at a time between the phases, >= 1.

    Trainers: `supervised` (TRL's SFTConfig; None: no supervised start), `reward` and `refine`
    (RewardConfig), `policy` (RLOOConfig, all policy phases), `first_order` (RLOOConfig) and
    `zeroth` (ZOPrOConfig) on top of it, and `trainer` (every phase): mappings of these classes'
    fields. Those that the driver sets itself (folders, seeds, lengths) are refused. `trained` has
    the defaults of zeroth-order phases; the learning rate of first-order ones is 5e-5.

    Raises ValueError or TypeError, one sentence each, for what does not serve.
    """

    output_dir: str
    model: str | None = None
    dtype: str = "auto"
    iterations: int = 2
    seed: int = 0
    resume: bool = True
    save_steps: int = 50
    sketch_every: int | None = None
    method: str = "zopro"
    first: str = "rloo"
    objective: str = "rloo"
    common_samples: bool = True
    schedule: str = "linear"
    half_life: float = 0.1
    project: bool = True
    reference: str = "base"
    train: str = "lora"
    lora_r: int | None = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.0
    target_modules: list[str] | None = None
    reward_lora_r: int | None = None
    max_prompt_length: int = 512
    max_completion_length: int = 64
    temperature: float = 0.7
    reward_data: str = "auto"
    reward_model: str | None = None
    boundary: float = 0.6
    blend: float = 0.0
    chunk: float | None = None
    reward_timeout: float | None = None
    batch_size: int = 16
    trainer: dict[str, Any] = field(default_factory=dict)
    supervised: dict[str, Any] | None = None
    reward: dict[str, Any] = field(default_factory=dict)
    refine: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    first_order: dict[str, Any] = field(default_factory=dict)
    zeroth: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.output_dir, str) or not self.output_dir:
            raise ValueError(f"output_dir={self.output_dir!r} is not allowed: name a folder")
        for name, known in (
            ("dtype", ("auto", "float32", "bfloat16", "float16")),
            ("method", METHODS),
            ("first", FIRST),
            ("objective", OBJECTIVES),
            ("schedule", ("linear", "exponential", "cosine", "constant")),
            ("reference", REFERENCES),
            ("train", TRAIN),
            ("reward_data", REWARD_DATA),
        ):
            checks.choice(name, getattr(self, name), known)
        for name in ("iterations", "save_steps", "max_prompt_length", "max_completion_length",
                     "batch_size", "lora_alpha"):  # fmt: skip
            checks.integer(name, getattr(self, name), 1)
        for name in ("lora_r", "reward_lora_r"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), 1)
        checks.integer("seed", self.seed, 0, 2**32)
        if self.sketch_every is not None:
            checks.integer("sketch_every", self.sketch_every, 0)
        for name in ("resume", "common_samples", "project"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(
                    f"{name}={getattr(self, name)!r} is not allowed: give true or false"
                )
        self._shares()
        self._trainers()
        self._reward_model()

    def _reward_model(self) -> None:
        folder = self.reward_model
        if folder is None:
            return
        if not isinstance(folder, str) or not folder:
            raise ValueError(f"reward_model={folder!r} is not allowed: name a folder, or None")
        if self.supervised is not None:
            raise ValueError(
                f"reward_model={folder!r} is given beside supervised, which would move the base "
                "that it was trained on: run `zopro sft --merge`, train both on its folder, and "
                "leave supervised out"
            )

    def _shares(self) -> None:
        checks.number("half_life", self.half_life, 0.0, open_low=True)
        checks.number("temperature", self.temperature, 0.0, open_low=True)
        if self.reward_timeout is not None:
            checks.number("reward_timeout", self.reward_timeout, 0.0, open_low=True)
        shares = (("lora_dropout", True, False), ("blend", True, False),
                  ("boundary", False, True), ("chunk", False, False))  # fmt: skip
        for name, low, high in shares:
            value = getattr(self, name)
            if name == "chunk" and value is None:
                continue
            value = checks.number(name, value, 0.0)
            if value > 1 or (value == 0 and not low) or (value == 1 and not high):
                bounds = f"{'[' if low else '('}0, 1{']' if high else ')'}"
                raise ValueError(f"{name}={value!r} is not allowed: give a share in {bounds}")

    def _trainers(self) -> None:
        for option, cls in OPTIONS.items():
            given = getattr(self, option)
            if option == "supervised" and given is None:
                continue
            if not isinstance(given, dict):
                raise TypeError(
                    f"{option} is a {type(given).__name__}: give a mapping of {cls.__name__}'s "
                    "fields"
                )
            known = {f.name for f in dataclasses.fields(cls) if f.init}
            for name in given:
                if name in OWNED:
                    raise ValueError(
                        f"{option} holds {name!r}, which the driver sets: use the fields of "
                        "IterationConfig"
                    )
                if name not in known:
                    raise ValueError(f"{option} holds {name!r}, which {cls.__name__} has not")

    @property
    def norms(self) -> bool:  # whether copies of norms are trained
        return self.train in ("last_norm", "norms")

    @property
    def whole(self) -> bool:  # whether all of the policy's weights are
        return self.train == "all" or (self.train == "lora" and self.lora_r is None)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and mappings."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> IterationConfig:
        """From a mapping, as a file holds it; ValueError names an option that does not exist."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise ValueError(f"option {name!r} is not known: use one of {', '.join(known)}")
        return cls(**options)


def read_config(path: str | Path) -> IterationConfig:
    """An IterationConfig from a JSON or YAML file; ValueError names an option that is not known."""
    text = Path(path).read_text(encoding="utf-8")
    if str(path).endswith((".yaml", ".yml")):
        import yaml  # comes with transformers

        options = yaml.safe_load(text)
    else:
        options = json.loads(text)
    if not isinstance(options, dict):
        raise ValueError(f"{str(path)!r} holds no mapping of options")
    return IterationConfig.from_dict(options)
