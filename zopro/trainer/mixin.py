"""Any Hugging Face trainer, trained by forward passes alone."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zopro.optimizer import ZOPrO

from .config import require_zeroth_order
from .distributed import (
    SameWeights,
    common_seed,
    mean_loss,
    refuse_sharded_parameters,
    refuse_sharding,
    refuse_wrapped,
)
from .evaluation import CommonRandomNumbers, root_in_eval, steps_in_loss, submodules_in_eval
from .health import health, loss_noise, noise_is_due
from .logs import LogSteps
from .populated import Populated
from .progress import Recoverable
from .settling import Settle, attached, settle, watched
from .sketching import SketchSteps


class ZerothOrderMixin(Populated, Recoverable):
    """Turns `transformers.Trainer` or any child of it into a zeroth-order trainer:

        class ZOSFTTrainer(ZerothOrderMixin, SFTTrainer):
            pass

    with a configuration that begins with `ZerothOrderArguments`. The parent's `training_step`
    runs as it is: it prepares the inputs (for RLOO and GRPO it generates and scores), counts,
    times and scales. Where it asks `compute_loss` for a loss to differentiate, `ZOPrO.estimate`
    evaluates the parent's `compute_loss` at perturbed weights instead, without a graph, and the
    loop's `optimizer.step()` applies the update. Generation, metrics, callbacks, learning-rate
    schedules, gradient accumulation (all micro-batches of a step share its directions),
    checkpoints are the parent's; going on after a kill is `Recoverable`'s. What differs:

    - The loss reported is the mean over the evaluations, metrics of `compute_loss` likewise;
      counters move once a batch. `grad_norm` is the root mean square of the slopes along the
      directions of the last step, an estimate of the gradient's norm.
    - What is followed is the slope of the loss's value: a loss that detaches a part of itself
      is another objective here (SFT's "dft" and GRPO's "cispo" are refused).
    - Both signs see the same function: the forwards of training run in eval mode (no dropout,
      batch norms use their running statistics; between them the model's own flag stays
      `training`), and what still draws from torch's global generators draws the same numbers in
      each evaluation of a batch, unless `common_random_numbers` is False.
    - Between an estimate and its step the weights stay perturbed, and with `zo_lookahead` between
      steps as well. Generation, evaluation, prediction, saving and the ends of epochs and of
      training see theta. A callback that reads or writes weights at another event calls
      `trainer.zopro.settle()` first; `on_pre_optimizer_step` and `on_substep_end` find theta.
    - Several ranks each hold the whole model and average their losses; see `distributed`.

    Sources: MeZO (arXiv 2305.17333); ZOPrO (arXiv 2503.03460) for targeted directions.
    """

    common_random_numbers = True
    _noise: float | None = None  # of a loss, where it was measured since the last log

    def create_accelerator_and_postprocess(self):
        """After the parent's: refuse what cannot work, and prepare models as for evaluation."""
        require_zeroth_order(self.args)
        super().create_accelerator_and_postprocess()
        refuse_sharding(self.accelerator, self.args)
        self.check_population()
        if self.accelerator.mixed_precision == "fp16":
            raise ValueError(
                "mixed_precision='fp16' is refused: loss scaling is made for gradients; use bf16"
                " or load the model in bfloat16."
            )
        # No backward, so no DistributedDataParallel: its gradient buckets are as large as the
        # trainable weights.
        self.accelerator.prepare_model = functools.partial(
            self.accelerator.prepare_model, evaluation_mode=True
        )

    def create_optimizer(self, model=None) -> ZOPrO:
        """Replaces the parent's: ZOPrO over the named trainable parameters of `model`.

        Biases and norms are not decayed, as in the parent. An optimizer passed to the constructor
        must be a ZOPrO (TypeError).
        """
        if getattr(self, "optimizer_cls_and_kwargs", None) is not None:
            raise TypeError("optimizer_cls_and_kwargs is refused: the optimizer here is ZOPrO.")
        if self.optimizer is None:
            self.optimizer = self._build_optimizer(self.model if model is None else model)
        self.check_population()
        if not isinstance(self.zopro, ZOPrO):
            raise TypeError(
                f"optimizers holds a {type(self.zopro).__name__}, which needs gradients: pass a"
                " zopro.ZOPrO, or none and set the fields that begin with `zo_`."
            )
        held = {type(c) for c in self.callback_handler.callbacks}
        for cls in (c for c in (SameWeights, LogSteps, SketchSteps) if c not in held):
            self.add_callback(cls)
        if SameWeights not in held:
            self.callback_handler.callbacks.insert(0, Settle())
        return self.optimizer

    @property
    def zopro(self) -> ZOPrO | None:
        """The optimizer itself, without accelerate's wrapper; None before it is created."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def set_targets(
        self,
        policy_update: Mapping[str, torch.Tensor] | Sequence[torch.Tensor],
        reward_update: Mapping[str, torch.Tensor] | Sequence[torch.Tensor] | None = None,
        schedule: Any = None,
        steps: int | None = None,
        half_life: float = 0.1,
    ) -> None:
        """Directions of the next `train()` are drawn near the previous update (ZOPrO).

        Arguments as for `ZOPrO.set_targets`, which copies them when training starts and says
        there what does not fit: tensors of the trainable parameters' shapes by the names of
        `model.named_parameters()`, or in the optimizer's order. `schedule` defaults to
        `args.zo_schedule`, `steps` to the run's; they are stored as `args.zo_target_storage` says.
        """
        schedule = self.args.zo_schedule if schedule is None else schedule
        self._targets = (policy_update, reward_update, schedule, steps, half_life)

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Before the parent's: hand waiting targets on, now that the number of steps is known."""
        targets, self._targets = getattr(self, "_targets", None), None
        if targets is not None:
            *updates, schedule, steps, half_life = targets
            steps = num_training_steps if steps is None else steps
            storage = self.args.zo_target_storage
            self.zopro.set_targets(*updates, schedule, steps, half_life, storage)
        return super().create_scheduler(num_training_steps, optimizer)

    def training_step(self, *args, **kwargs):
        """The parent's, whose forwards (generation's too) run with the model in eval mode."""
        with root_in_eval(self.model):
            return super().training_step(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """In a training step: an estimate from the parent's loss. In evaluation: the parent's.

        Returns a scalar that is a leaf of autograd, so that the parent's `backward` ends in it
        and touches no parameter.
        """
        parent = functools.partial(super().compute_loss, num_items_in_batch=num_items_in_batch)
        if not self.model.training or return_outputs or self.zopro is None:
            settle(self.optimizer)
            return parent(model, inputs, return_outputs)

        # The parent adds up the losses of the micro-batches of a step, ZOPrO averages them.
        share = steps_in_loss(self, num_items_in_batch)
        counters = {name: n for name, n in vars(self).items() if type(n) is int}
        replay = CommonRandomNumbers(p.device for p in model.parameters())

        def evaluate(batch, graph: bool = False) -> torch.Tensor:
            if self.common_random_numbers:
                replay()
            vars(self).update(counters)  # the batch counts once, however often it is evaluated
            torch.clear_autocast_cache()  # an outer autocast would keep the unperturbed weights
            with torch.set_grad_enabled(graph):  # a copy: some parents pop their labels
                return mean_loss(self.accelerator, parent(model, {**batch}) * share)

        closure = functools.partial(evaluate, inputs)
        if self.scored_together():
            self._measure_noise(closure, self.zopro._pending is None)
            loss = self.population_estimate(evaluate, model, inputs) / share
            return loss.detach().requires_grad_()
        # The way back is a part of the update, unless somebody may look in between.
        last = self.accelerator.gradient_state.sync_gradients
        event = "on_pre_optimizer_step" if last else "on_substep_end"
        looks = watched(self.callback_handler.callbacks, event)
        loss = self.zopro.estimate(closure, restore=looks) / share
        self._measure_noise(closure, last)
        return loss.detach().requires_grad_()

    def _measure_noise(self, closure, when: bool) -> None:
        if when and noise_is_due(self.args, self.zopro):
            self._noise = loss_noise(self.zopro, closure)

    def train(self, *args, **kwargs):
        """The parent's; the weights are theta afterwards, also when it raises."""
        try:
            return super().train(*args, **kwargs)
        finally:
            settle(self.optimizer)

    def evaluate(self, *args, **kwargs):
        """The parent's, at theta."""
        settle(self.optimizer)
        return super().evaluate(*args, **kwargs)

    def predict(self, *args, **kwargs):
        """The parent's, at theta."""
        settle(self.optimizer)
        return super().predict(*args, **kwargs)

    def save_model(self, *args, **kwargs):
        """The parent's: theta is saved."""
        settle(self.optimizer)
        return super().save_model(*args, **kwargs)

    def _load_best_model(self):
        settle(self.optimizer)  # what is loaded is not to be restored afterwards
        return super()._load_best_model()

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Before the parent's: a `grad_norm` that means something; see `health`."""
        if "loss" in logs:
            logs |= health(self.zopro, self._noise) | self.spread()
            self._noise = None
        super().log(logs, *args, **kwargs)

    def _prepare_inputs(self, inputs):
        if self.model.training:  # the parent's training_step has just called model.train()
            submodules_in_eval(self.model)  # a PEFT model generates without a forward of the root
        return super()._prepare_inputs(inputs)

    def _generate_and_score_completions(self, inputs):
        # GRPO leaves the log-probabilities of sampling out where they equal the current ones, and
        # divides by the current ones, detached: a loss whose value never moves. It keeps them for
        # batches that outlive one optimizer step, so this one claims to.
        settle(self.optimizer)  # rollouts come from theta
        kept = self.num_iterations
        self.num_iterations = self.args.gradient_accumulation_steps + 1
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self.num_iterations = kept

    def _build_optimizer(self, model) -> ZOPrO:
        refuse_wrapped(model)
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        refuse_sharded_parameters(trainable.items())
        decayed = set(self.get_decay_parameter_names(model)) if self.args.weight_decay else set()
        groups = [
            {
                "params": [(n, p) for n, p in trainable.items() if (n in decayed) is decay],
                "weight_decay": self.args.weight_decay if decay else 0.0,
            }
            for decay in (True, False)
        ]
        if not (groups := [group for group in groups if group["params"]]):
            raise ValueError("The model has no parameter that requires a gradient to train.")
        arguments = self.args.zero_order_arguments()
        arguments["seed"] = common_seed(arguments["seed"])
        return attached(ZOPrO(groups, **arguments), model)
