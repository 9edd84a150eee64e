"""How many batches a call of a step runs, found by timing."""

from __future__ import annotations

from math import ceil

CALL_SECONDS = 0.5  # a call stays under this, so that progress and Ctrl-C stay responsive
LIMIT = 8192  # batches a call runs at most, whatever their speed


class Pace:
    """How many batches a call runs: doubled while calls are short, then settled on equal blocks.

    A pace lives as long as its compiled step. `steps` is the number of batches in a pass; calls also end at every
    multiple of `stride`, where a callback must act. `most` limits a call, `fixed` sets its batches without timing.

    >>> pace = Pace(steps=100, fixed=None)
    >>> pace.saw(1, seconds=9.0)  # the first call compiles, and counts for nothing
    >>> for _ in range(7):
    ...     pace.saw(pace.count, seconds=pace.count * 0.01)
    >>> pace.count, pace.settled
    (50, True)
    """

    def __init__(self, steps: int, *, fixed: int | None, most: int = LIMIT, stride: int | None = None):
        self.steps = steps
        self.capacity = min(fixed or most, stride or steps, steps, LIMIT)
        self.stride = stride
        self.settled = fixed is not None
        self.count = self.capacity if self.settled else 1
        self.compiled = self.settled
        self.compile_seconds = 0.0
        self.step_seconds = float("inf")
        self.fixing = False
        self.done = 0

    def ahead(self, done: int) -> int:
        """How many batches to run after `done`: a call ends at every multiple of the stride."""
        return min(self.count, self.stride - done % self.stride) if self.stride else self.count

    def saw(self, count: int, seconds: float, *, traced: bool = False) -> None:
        """Note that a call of `count` batches took `seconds`; the first one, and one that `traced`, compiled, too."""
        self.done += count
        if traced or not self.compiled:
            self.compiled, self.compile_seconds = True, seconds
            return
        self.step_seconds = max(1e-9, min(self.step_seconds, seconds / count))
        if count < self.count:
            return
        if not self.settled and seconds < CALL_SECONDS / 4 and self.count < self.capacity:
            self.count = min(2 * self.count, self.capacity)
            return
        most = min(self.capacity, max(1, int(CALL_SECONDS / self.step_seconds)))
        usual = ceil(self.steps / ceil(self.steps / most))
        if not self.settled or usual >= 2 * self.count:  # a slow call may have settled it, on a busy machine
            self.count, self.settled, self.fixing = usual, True, False

    def expect(self, remaining: int) -> None:
        """Decide whether to compile for the settled count: if that takes at most a tenth of the time of all batches.

        All are those done and the `remaining`, so that a training in many short parts decides as one long one does.
        """
        self.fixing |= self.settled and 0.1 * (self.done + remaining) * self.step_seconds > self.compile_seconds

    def is_fixed(self, count: int) -> bool:
        """Whether calls of `count` batches have a function of their own."""
        return self.fixing and count == self.count
