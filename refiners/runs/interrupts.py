"""What asks a run to end: signals, and the last of its hours.

A step is finished first, as is what must not be half done. The stages around the steps (images of
the teacher, figures, the report) can be left at any moment, and are left at once.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A stage of this name was left, see Interrupts. No `except Exception` may keep it."""


class Interrupts:
    """Inside this block the first SIGINT or SIGTERM is noted; a second one acts at once.

    Signals reach Python's main thread alone; in another thread the block changes nothing. One that
    this process was started to ignore, as a shell starts what runs in the background, stays so.

    Args:
        hours: after which the run is late; 0 is no limit.
        began: when they began, by the monotonic clock; None is now.

    Attributes:
        received: the signal that asks the run to end, or None.
    """

    def __init__(self, hours: float = 0.0, *, began: float | None = None) -> None:
        self.received: signal.Signals | None = None
        began = time.monotonic() if began is None else began
        self._ends = began + hours * 3600 if hours else float("inf")
        self._before: dict[signal.Signals, Any] = {}
        self._timer: threading.Timer | None = None
        self._is_hour = False  # whether it was the timer that called the handler
        self._stage = ""  # that can be left at once

    @property
    def late(self) -> bool:
        """Whether the hours are over."""
        return time.monotonic() >= self._ends

    @property
    def why(self) -> str:
        """What asks the run to end, for people."""
        return self.received.name if self.received else "max_hours"

    def count_no_more(self) -> None:
        """Forget the hours: what is left is what a run does that ends."""
        self._ends = float("inf")

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            heard = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        if self._before and self._ends < float("inf"):
            wait = min(max(self._ends - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
            self._timer = threading.Timer(wait, self._tell_main_thread)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._restore()

    @contextmanager
    def at_once(self, stage: str) -> Iterator[None]:
        """Leave what is inside at any moment, by raising Stopped, where the run is asked to end."""
        before, self._stage = self._stage, stage
        try:
            if self.received or self.late:
                raise Stopped(stage)
            yield
        finally:
            self._stage = before

    def _tell_main_thread(self) -> None:
        """Call the handler there, which a stage may have to be left from."""
        if self._before:
            self._is_hour = True
            _thread.interrupt_main(next(iter(self._before)))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._is_hour:
            self._is_hour = False
            asked = self.late
        else:
            self.received = signal.Signals(number)
            self._restore()
            asked = True
        if asked and self._stage:
            stage, self._stage = self._stage, ""
            raise Stopped(stage)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            # None is a handler that was not set from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def leave(self) -> None:
        """End the process as the signal would have: KeyboardInterrupt, or exit code 128 + n."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)
