"""Iterations of ZOPrO: supervised start, reward model, policy, judge, refinement, targets."""

from .config import IterationConfig, read_config
from .driver import Outcome, iterate
from .endpoint import EndpointJudge
from .judges import Judge, LocalJudge, judge_pairs
from .sampled import SampledRewardTrainer

__all__ = ["EndpointJudge", "IterationConfig", "Judge", "LocalJudge", "Outcome",
           "SampledRewardTrainer", "iterate", "judge_pairs", "read_config"]  # fmt: skip
