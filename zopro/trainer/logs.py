"""The step log of a training run: `steps.zolog` in its output folder."""

import logging
from pathlib import Path

from transformers import TrainerCallback

from zopro.files import sync_folder, told
from zopro.steplog import StepLog

logger = logging.getLogger(__name__)

NAME, START = "steps.zolog", "start_adapter"


class LogSteps(TrainerCallback):
    """Opens the log when training starts, its checkpoint loaded, and closes it at the end.

    One rank writes. An adapter is saved as it starts, once, to `start_adapter`: what initialised
    it at random is gone afterwards, and a replay begins from it.
    """

    def __init__(self) -> None:
        self._log: StepLog | None = None

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        if not args.zo_log_steps or not state.is_world_process_zero:
            return
        self.close()  # of a run that an error ended
        folder = Path(args.output_dir)
        zopro = getattr(optimizer, "optimizer", optimizer)
        if zopro._capturable:
            logger.warning("no %s is written: a captured step runs no Python", NAME)
            return
        if zopro.step_count == 0 and hasattr(model, "peft_config"):
            with told(folder / START):
                model.save_pretrained(folder / START, selected_adapters=model.active_adapters)
                sync_folder(folder / START)
        self._log = StepLog(folder / NAME, zopro, every_step=True, frozen=model)

    def on_train_end(self, args, state, control, **kwargs):
        # The best checkpoint's weights, where they have been loaded, are not the last step's.
        self.close(mark=not args.load_best_model_at_end)

    def close(self, mark: bool = False) -> None:
        """Lets go of the log, where there is one."""
        log, self._log = self._log, None
        if log is not None:
            log.close(mark=mark)
