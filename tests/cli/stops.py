"""Where a run may be stopped. `python stops.py ARGV...` runs the command again and again, each time
in a process that is killed at the next point."""

import os
import signal
import sys

from zopro.cli import main
from zopro.cli.judge import TaskJudge
from zopro.iterations import pairs
from zopro.iterations.training import LogLines

TRAINED = ("supervised", "reward", "0.policy", "0.refine", "1.policy", "1.refine")
POINTS = ("supervised", "reward", "0.policy", "0.sampling", "0.judge", "0.refine", "1.policy",
          "1.sampling", "1.judge", "1.refine")  # fmt: skip

KILLED = POINTS[:7]


def arm(point, act, put=setattr):
    """Has `act` called once when a run comes to `point`: after the log of a trainer's second step,
    whose first one is saved by then, or before the sampling or the judging of an iteration's pairs.

    put: as `setattr`, to take the hooks away again.
    """
    asked, sampled, judged = [], pairs._collect, TaskJudge.__call__
    on_log = LogLines.on_log

    def once(reached):
        if reached == point and not asked:
            asked.append(reached)
            act()

    def log(self, args, state, control, logs=None, **kwargs):
        on_log(self, args, state, control, logs=logs, **kwargs)
        if state.global_step == 2:
            once(self._phase)

    def collect(context, phase, prompts):
        collect.phase = phase.replace(".pairs", "")
        once(f"{collect.phase}.sampling")
        return sampled(context, phase, prompts)

    def judge(self, *texts):
        once(f"{collect.phase}.judge")
        return judged(self, *texts)

    put(LogLines, "on_log", log)
    put(pairs, "_collect", collect)
    put(TaskJudge, "__call__", judge)


if __name__ == "__main__":
    for point in KILLED:
        child = os.fork()  # before any thread: the libraries, which take seconds, load once
        if child == 0:
            arm(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
            os._exit(main(sys.argv[1:]))
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            raise SystemExit(f"not killed at {point}: status {status}")
