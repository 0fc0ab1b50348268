"""How long a run will take, and its memory: said on stderr, whose lines nobody parses, and only of
runs that take longer than LONG.

First after some updates, if the run says how far it is in its epoch (a method epoch_share() that
returns a number from 0 to 1) or --max-steps limits it; then at the end of each epoch.
"""

import sys
import time
from argparse import Namespace
from typing import Any

import torch

from harness.notices import notice

LONG = 600.0          # seconds: of shorter runs nothing is said
SETTLED = 20.0        # seconds of updates before the first word: the first are slow
FEWEST = 5            # updates before it


def duration(seconds: float) -> str:
    """50 s, 7 min, 3 h 20 min, 4 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes / 1440:.0f} days"


def memory(device: torch.device) -> str:
    """The most that the run has needed so far: on a GPU of its memory, else of this process."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of GPU memory"
    try:
        import resource
    except ImportError:  # Windows
        return ""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB here
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.1f} GiB of memory"


class Forecast:
    """One run's. `update` is called after each of its updates, in the process that speaks."""

    def __init__(self, args: Namespace, device: torch.device):
        self.args, self.device = args, device
        self._spoken = False          # the first word
        self._start: float | None = None
        self._updates = 0             # since _start
        self._epoch: int | None = None
        self._epoch_start = 0.0
        self._whole = False           # has the epoch been seen from its beginning?
        self._position = 0.0          # in epochs, at _start

    def update(self, run: Any, now: float | None = None) -> None:
        """After an update; now: a clock's seconds, for the tests."""
        now = time.monotonic() if now is None else now
        progress = run.progress
        if self._start is None:
            self._start = self._epoch_start = now
            self._epoch, self._position = progress.epoch, self._epochs_done(run)
            return
        self._updates += 1
        if progress.epoch != self._epoch:
            self._end_of_epoch(progress, now)
        elif not self._spoken and now - self._start > SETTLED and self._updates >= FEWEST:
            self._first_word(run, now)

    def _first_word(self, run: Any, now: float) -> None:
        self._spoken = True
        seconds, left, per = now - self._start, [], ""
        if steps := self._steps_left(run.progress):
            left.append(seconds / self._updates * steps)
        if (done := self._epochs_done(run)) > self._position and hasattr(run, "epoch_share"):
            epoch = seconds / (done - self._position)
            left.append(epoch * max(0.0, self._epochs() - done))
            per = f", {duration(epoch)} an epoch"
        if left and min(left) > LONG:
            self._say(f"about {duration(min(left))} from here{per}, evaluation not counted; "
                      f"{memory(self.device)} so far")

    def _end_of_epoch(self, progress: Any, now: float) -> None:
        """Of the epoch that has just ended, evaluation included, if it was seen whole."""
        seconds, whole = now - self._epoch_start, self._whole or self._fresh(progress)
        self._epoch, self._epoch_start, self._whole = progress.epoch, now, True
        left = seconds * (self._epochs() - (progress.epoch - type(progress)().epoch))
        if (steps := self._steps_left(progress)) and self._updates:
            left = min(left, (now - self._start) / self._updates * steps)
        if whole and left > LONG:
            end = time.strftime("%a %d %b %H:%M", time.localtime(time.time() + left))
            self._spoken = True
            self._say(f"an epoch takes {duration(seconds)}; done in at most {duration(left)}, "
                      f"{end}; {memory(self.device)} so far")

    def _fresh(self, progress: Any) -> bool:
        """Did the epoch that ended begin with this process's first update?"""
        return progress.step <= self._updates + 1

    def _epochs(self) -> float:
        return getattr(self.args, "epochs", 0) or 0

    def _epochs_done(self, run: Any) -> float:
        """Whole epochs, counted from the script's first (im/ calls it 0), and the share of this."""
        share = getattr(run, "epoch_share", lambda: 0.0)()
        return run.progress.epoch - type(run.progress)().epoch + share

    def _steps_left(self, progress: Any) -> int:
        return max(0, (getattr(self.args, "max_steps", 0) or 0) - progress.step)

    def _say(self, text: str) -> None:
        notice(f"forecast: {text}")
