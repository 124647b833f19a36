"""Any Hugging Face trainer, resumed to the bit from checkpoints that hold no pickle."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from zopro.files import sync_folder, told, write_beside
from zopro.seeds import derive_seed

from . import trees
from .draws import seeded

# Purposes of seeds: of a step's draws, of an epoch's order; zopro.seeds has 0 to 2, sampled.py 3.
STEP_DRAWS, ORDER = 4, 5
OPTIMIZER, ARGUMENTS = "optimizer.safetensors", "training_args.json"

# What the loops of transformers and TRL count and gather between two logs, and rollouts that serve
# several steps. `_tr_loss` is a tensor, `_metrics` a mapping of mappings of lists.
COUNTED = ("_total_loss_scalar", "_globalstep_last_logged", "_initial_global_step", "current_flos",
           "_step", "_total_train_tokens", "_noise")  # fmt: skip


class Resumable:
    """Before `transformers.Trainer` or a child of it: what a kill leaves is enough to go on to the
    bit, and its checkpoints are safetensors and JSON (the parent's hold pickles: optimizer.pt,
    scheduler.pt, rng_state.pth, training_args.bin, scaler.pt).

    The random numbers of a step (rollouts, dropout) come from (seed, step), so no generator's state
    is kept; the global generators are as they were after each step. What draws elsewhere, as a
    collator may, is not covered.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Before the parent's: refuses what only the parent's pickles serve."""
        if self.args.push_to_hub and self.args.hub_strategy != "end":
            raise ValueError(
                f"hub_strategy={self.args.hub_strategy.value!r} pushes a pickle with each "
                "checkpoint (training_args.bin): use hub_strategy='end'"
            )
        super().create_accelerator_and_postprocess()

    def resume_point(self) -> str | None:
        """The folder from which the run in `args.output_dir` goes on, the same on all ranks; None:
        from its start."""
        found = self._resume_point() if self.is_world_process_zero() else None
        return broadcast_object_list([found])[0]

    def _resume_point(self) -> str | None:
        return last_checkpoint(Path(self.args.output_dir))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The parent's, whose random numbers are those of this step."""
        step, (last, micro) = self.state.global_step, getattr(self, "_drawn", (None, 0))
        self._drawn = step, micro + 1 if step == last else 0
        seed = self.args.seed + self.args.process_index
        with seeded(derive_seed(seed, STEP_DRAWS, step << 20 | self._drawn[1]), self.args.device):
            return super().training_step(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """The parent's, and the disk has it before a former one is removed. Raises OSError, a
        sentence, where it cannot be written; what was there before is whole."""
        options, limit = self.args, self.args.save_total_limit
        folder = Path(options.output_dir)
        with told(folder):
            try:
                options.save_total_limit = None
                super()._save_checkpoint(*args, **kwargs)
            finally:
                options.save_total_limit = limit
            if options.should_save:
                self._sync(folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if options.should_save:
            rotate_checkpoints(
                output_dir=options.output_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _sync(self, checkpoint: Path) -> None:
        """Waits until the disk has `checkpoint`."""
        sync_folder(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """In the parent's place, which pickles its arguments beside the weights: here as JSON."""
        folder, writes = Path(output_dir or self.args.output_dir), self.args.should_save
        if not writes and not getattr(self, "is_distributed_loading_by_transformers", False):
            return  # else every rank holds a part of what is saved
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(folder, state_dict=state_dict, is_main_process=writes)
        elif writes:
            weights = model.state_dict() if state_dict is None else state_dict
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        if writes:
            processing = self.processing_class or getattr(self.data_collator, "tokenizer", None)
            if processing is not None:
                processing.save_pretrained(folder)
            options = json.dumps(self.args.to_dict(), indent=2, sort_keys=True, default=str)
            write_beside(folder / ARGUMENTS, options + "\n", sync=False)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save:
            state = {"optimizer": self._optimizer_state(Path(output_dir)),
                     "scheduler": self.lr_scheduler.state_dict()}  # fmt: skip
            if (scaler := getattr(self.accelerator, "scaler", None)) is not None:
                state["scaler"] = scaler.state_dict()
            trees.save(Path(output_dir) / OPTIMIZER, state)

    def _optimizer_state(self, checkpoint: Path) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def _save_scaler(self, output_dir: str) -> None:
        pass  # beside the optimizer

    def _save_rng_state(self, output_dir: str) -> None:
        """Called on every rank: what each counts of its own."""
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)  # this rank may be the first
        trees.save(folder / self._loop_name(), self._loop_state())
        if self.args.should_save:
            sync_folder(folder)  # before trainer_state.json, by which a checkpoint is whole

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self._checkpoint = checkpoint
        if checkpoint is None or not (Path(checkpoint) / OPTIMIZER).is_file():
            return super()._load_optimizer_and_scheduler(checkpoint)
        state = trees.load(Path(checkpoint) / OPTIMIZER)
        self._take_optimizer(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["scheduler"])
        if "scaler" in state and getattr(self.accelerator, "scaler", None) is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _take_optimizer(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called before the first step, when the loop has set its own counters to nothing."""
        path = None if checkpoint is None else Path(checkpoint) / self._loop_name()
        if path is not None and path.is_file():
            self._take_loop_state(trees.load(path))

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        self._sampler = super()._get_train_sampler(*args, **kwargs)
        return self._sampler

    def _run_epoch(self, model: Any, epoch: int, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            return  # stopped after its last step: the parent would do one more
        self._began = getattr(self, "_began", None) or time.time()
        generator = getattr(getattr(self, "_sampler", None), "generator", None)
        if epoch and generator is not None:
            # TRL's sampler draws each epoch's order after the one before, whether that was run or
            # not; the first epoch's is TRL's.
            generator.manual_seed(derive_seed(self.args.seed, ORDER, epoch))
        super()._run_epoch(model, epoch, *args, **kwargs)

    def _finalize_training(self, trial: Any, samples: int, start_time: float) -> Any:
        checkpoint, self._checkpoint = getattr(self, "_checkpoint", None), None
        if checkpoint is not None and self.state.global_step == self._initial_global_step:
            self._load_rng_state(checkpoint)
        start, self._began = getattr(self, "_began", None) or start_time, None
        return super()._finalize_training(trial, samples, start)

    def _loop_name(self) -> str:
        return loop_name(self.args.process_index, self.args.world_size)

    def _loop_state(self) -> dict[str, Any]:
        """What the loop would lose; the buffer of rollouts where a later step reads it again."""
        state = {n: getattr(self, n) for n in COUNTED if hasattr(self, n)}
        state["loss"] = self._tr_loss.item()
        state["seconds"] = time.time() - (getattr(self, "_began", None) or time.time())
        if hasattr(self, "_metrics"):
            state["metrics"] = {mode: dict(found) for mode, found in self._metrics.items()}
        buffer = getattr(self, "_buffered_inputs", None)
        if buffer is not None and self._step % (
            self.args.steps_per_generation * self.num_iterations
        ):
            state["rollouts"] = buffer
        return state

    def _take_loop_state(self, state: dict[str, Any]) -> None:
        for name in COUNTED:
            if name in state:
                setattr(self, name, state[name])
        self._tr_loss = torch.tensor(state["loss"], device=self.args.device)
        self._began = time.time() - state["seconds"]
        for mode, found in state.get("metrics", {}).items():
            self._metrics[mode].clear()
            for name, values in found.items():
                self._metrics[mode][name] = values
        if "rollouts" in state:
            self._buffered_inputs = [_on(b, self.args.device) for b in state["rollouts"]]


def loop_name(rank: int, ranks: int) -> str:
    """The file of a checkpoint with what `rank` counts of its own."""
    return f"loop-{rank}.safetensors" if ranks > 1 else "loop.safetensors"


def last_checkpoint(folder: Path) -> str | None:
    """The whole checkpoint of the most steps in `folder`: one that a kill left half written does
    not count."""
    found = [(steps_of(path), str(path)) for path in folder.glob("checkpoint-*")]
    return max((f for f in found if f[0] is not None), default=(0, None))[1]


def steps_of(checkpoint: Path) -> int | None:
    """The steps of a whole checkpoint; None where it is not whole."""
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        for path in checkpoint.glob("*.safetensors"):
            with safe_open(path, framework="pt"):
                pass
        return int(state["global_step"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _on(v, device) for name, v in value.items()}
    return [_on(v, device) for v in value] if isinstance(value, list) else value
