"""The arguments of zeroth-order training: fields beside a Hugging Face configuration's own."""

from dataclasses import dataclass, field
from typing import Any

from trl import RLOOConfig

import zopro_kernels as zk
from zopro import checks, schedules
from zopro.targets import STORAGES

from . import backward

MAPPINGS = ("all", "per_response")


@dataclass
class ZerothOrderArguments:
    """The fields that `ZerothOrderMixin` reads, to put before any Hugging Face configuration:

        @dataclass
        class ZOSFTConfig(ZerothOrderArguments, SFTConfig):
            pass

    `learning_rate`, `weight_decay`, the schedules of the learning rate and everything else keep
    their names and their meaning there. What has none without a backward pass is refused with a
    ValueError (`optim`, `adam_beta1`, `max_grad_norm`, `gradient_checkpointing_kwargs`, `fp16`,
    `fsdp`, `deepspeed`, ...); a value that is the parent's own default, such as TRL's
    gradient_checkpointing=True, is switched off with a notice. bf16 autocast is off unless asked
    for: the difference of two losses needs their low bits, and a model can be loaded in bfloat16
    instead.

    Parameters:
        zo_eps (float or "auto"): root mean square of the perturbation of one element, in the
            units of the weights, > 0; "auto" finds the smallest that rises clear of the loss's
            rounding noise.
        zo_distribution: "rademacher" (signs) or "gaussian".
        zo_num_directions (int >= 1): directions of one step, all scored on the same batch (for
            RLOO on the same rollouts, whose generation is the dear part).
        zo_estimator: "two_sided", two losses a direction (SPSA; MeZO, arXiv 2305.17333), or
            "one_sided", one loss a direction and one of the weights as they are.
        zo_schedule: of d, the weight of the previous update in a targeted direction (ZOPrO,
            arXiv 2503.03460): "linear", "exponential", "cosine" or "constant".
        zo_target_storage: of the previous updates: "fp32", "bf16", or "int8" with block scales: 8,
            4 or 2.03 bytes an element, the same learning as measured; see `ZOPrO.set_targets`.
        zo_rounding: of the update: "nearest", "stochastic", or "auto", by dtype.
        zo_restore: after a perturbation: "exact", the very bits (above 1 GiB of trainable weights
            "layerwise"); "layerwise", the same with one layer's memory; "inplace", no memory;
            "auto": "exact" up to 1 GiB, then "inplace".
        zo_seed (int or None): seed of the noise; None takes `seed`. Rank 0's holds on all ranks.
        zo_lookahead (bool): the pass that restores and updates perturbs for the next step too: two
            passes over the weights a step instead of three. In place, two-sided. Callbacks: see
            `ZerothOrderMixin`.
        zo_population (int >= 1 or None): score so many directions in few large forwards over copies
            of the batch (docs/population.md), instead of `zo_num_directions` one after another:
            RLOO and GRPO.
        zo_population_mapping: "all" directions on all responses, or "per_response", one each.
        zo_population_sequences (int >= 1): of one such forward at most, but at least a batch.
        zo_backend (str or None): of the kernels; None picks by device.
        zo_log_steps: write `steps.zolog` to the output folder, from which `zopro replay` rebuilds
            the weights of any step (docs/replay.md); an adapter's start is saved beside it.
        zo_noise_every (int >= 0): log `zo_loss_noise`, below which a difference of two losses says
            nothing, at the first step and each so many, for four more losses; 0: never.
        zo_sketch_every (int >= 0): write a sketch of the trained weights, for `zopro.analysis`, to
            the output folder's `sketches` at each so many steps, the start and the end; 0: never.
    """

    # Other defaults than Hugging Face's, so that a notice tells of a user's choice alone.
    max_grad_norm: float = field(default=0.0, metadata={"help": "Without meaning: no gradients."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Without meaning: no graph."}
    )
    bf16: bool | None = field(
        default=False,
        metadata={"help": "bf16 autocast. Off: the difference of two losses needs their low bits."},
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "The learning rate of ZOPrO."})

    zo_eps: float | str | None = field(  # None: else the command line takes numbers only
        default=1e-3, metadata={"help": "Rms of the perturbation per element, or 'auto'."}
    )
    zo_distribution: str = field(
        default="rademacher", metadata={"help": f"Of the noise, one of {checks.DISTRIBUTIONS}."}
    )
    zo_num_directions: int = field(default=1, metadata={"help": "Directions of one step."})
    zo_estimator: str = field(
        default="two_sided", metadata={"help": f"One of {checks.ESTIMATORS}."}
    )
    zo_schedule: str = field(
        default="linear", metadata={"help": f"Of the previous update's weight: {schedules.NAMES}."}
    )
    zo_target_storage: str = field(
        default="int8", metadata={"help": f"Of the previous updates, one of {STORAGES}."}
    )
    zo_rounding: str = field(
        default="auto", metadata={"help": f"Of the update, one of {checks.ROUNDINGS}."}
    )
    zo_restore: str = field(
        default="auto", metadata={"help": f"After a perturbation, one of {checks.RESTORES}."}
    )
    zo_seed: int | None = field(
        default=None, metadata={"help": "Seed of the noise. None takes `seed`."}
    )
    zo_lookahead: bool = field(
        default=False, metadata={"help": "Perturb for the next step while updating."}
    )
    zo_population: int | None = field(
        default=None, metadata={"help": "Directions scored in few large forwards. None: singly."}
    )
    zo_population_mapping: str = field(
        default="all", metadata={"help": f"Of directions to responses, one of {MAPPINGS}."}
    )
    zo_population_sequences: int = field(
        default=256, metadata={"help": "Sequences of a population's forward, at most."}
    )
    zo_backend: str | None = field(
        default=None, metadata={"help": "Backend of the kernels. None picks by device."}
    )
    zo_log_steps: bool = field(
        default=True, metadata={"help": "Write the steps.zolog that `zopro replay` reads."}
    )
    zo_sketch_every: int = field(
        default=0, metadata={"help": "Steps between sketches of the weights; 0: none."}
    )
    zo_noise_every: int = field(
        default=0, metadata={"help": "Steps between measures of the loss's noise; 0: none."}
    )

    def __post_init__(self):
        self._validate()
        backward.refuse(self)
        backward.switch_off(self, ZerothOrderArguments)
        super().__post_init__()

    def zero_order_arguments(self) -> dict[str, Any]:
        """The keyword arguments of `zopro.ZOPrO`, without parameters and weight decay."""
        return {
            "lr": self.learning_rate,
            "eps": self.zo_eps,
            "distribution": self.zo_distribution,
            "num_directions": self._directions(),
            "estimator": self.zo_estimator,
            "rounding": self.zo_rounding,
            "restore": self.zo_restore,
            "seed": self.seed if self.zo_seed is None else self.zo_seed,
            "lookahead": self.zo_lookahead,
            "backend": self.zo_backend,
        }

    def _directions(self) -> int:
        return self.zo_num_directions if self.zo_population is None else self.zo_population

    def _validate(self):
        if self.zo_eps != "auto":
            try:
                self.zo_eps = float(self.zo_eps)  # the command line passes a string
            except (TypeError, ValueError):
                raise ValueError(
                    f"zo_eps={self.zo_eps!r} is not allowed: give a number above 0 or 'auto'"
                ) from None
            checks.number("zo_eps", self.zo_eps, 0.0, open_low=True)
        for name, known in (
            ("zo_distribution", checks.DISTRIBUTIONS),
            ("zo_estimator", checks.ESTIMATORS),
            ("zo_schedule", schedules.NAMES),
            ("zo_target_storage", STORAGES),
            ("zo_rounding", checks.ROUNDINGS),
            ("zo_restore", checks.RESTORES),
            ("zo_population_mapping", MAPPINGS),
        ):
            checks.choice(name, getattr(self, name), known)
        checks.integer("zo_num_directions", self.zo_num_directions, 1)
        checks.integer("zo_noise_every", self.zo_noise_every, 0)
        checks.integer("zo_sketch_every", self.zo_sketch_every, 0)
        self._validate_population()
        if self.zo_seed is not None:
            checks.integer("zo_seed", self.zo_seed, 0, 2**64)
        if self.zo_backend is not None:
            checks.choice("zo_backend", self.zo_backend, tuple(zk.backends()))

    def _validate_population(self):
        checks.integer("zo_population_sequences", self.zo_population_sequences, 1)
        size = self.zo_population
        if size is None:
            return
        checks.integer("zo_population", size, 1)
        if self.zo_num_directions not in (1, size):
            raise ValueError(
                f"zo_num_directions={self.zo_num_directions} beside zo_population={size}: the "
                "population is the directions; leave zo_num_directions out"
            )
        if self.zo_lookahead:
            raise ValueError(
                f"zo_lookahead=True with zo_population={size}, which perturbs no stored weight: "
                "leave one out"
            )
        batch = self.per_device_train_batch_size
        if self.zo_population_mapping == "per_response" and size != batch:
            raise ValueError(
                f"zo_population={size} with zo_population_mapping='per_response': give one for "
                f"each response of a batch, per_device_train_batch_size={batch}"
            )


@dataclass
class ZOPrOConfig(ZerothOrderArguments, RLOOConfig):
    """TRL's `RLOOConfig` and the fields of `ZerothOrderArguments`.

    In it `epsilon` is the PPO clip and `beta` the weight of the KL term; what is ours begins with
    `zo_`. Objective: RLOO (arXiv 2402.14740).
    """


def require_zeroth_order(args) -> None:
    """TypeError for a configuration without our fields, such as TRL's own."""
    if not isinstance(args, ZerothOrderArguments):
        name = type(args).__name__
        raise TypeError(
            f"args is a {name}, which has no zeroth-order fields: use ZOPrOConfig, or a dataclass"
            f" that inherits (ZerothOrderArguments, {name})."
        )
