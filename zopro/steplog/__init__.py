"""The step log: training as a file of a few bytes a step (docs/replay.md).

`StepLog` writes one, `read_log` reads it, `replay` rebuilds weights from it.
"""

from .layout import Step
from .player import replay
from .reader import Log, read_log
from .writer import StepLog

__all__ = ["Log", "Step", "StepLog", "read_log", "replay"]
