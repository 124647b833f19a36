"""The step log: training as a file of a few bytes a step (docs/replay.md).

`StepLog` writes one, `CapturedStepLog` that of steps in a CUDA graph; `read_log` reads it, `replay`
rebuilds weights from it.
"""

from .captured import CapturedStepLog
from .layout import Step
from .player import replay
from .reader import Log, read_log
from .writer import StepLog

__all__ = ["CapturedStepLog", "Log", "Step", "StepLog", "read_log", "replay"]
