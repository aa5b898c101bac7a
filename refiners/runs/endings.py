"""How a run ends that did not succeed; the command line makes exit codes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


class Wrecked(FloatingPointError):
    """A run whose last student cannot be used; its files are written."""


class RunFailed(OSError):
    """A run that its machine ended: a full disk, a folder that went away."""


@dataclass(frozen=True)
class Outcome:
    """How a run went.

    Attributes:
        result: which network it hands back and why, in words; process 0 knows it.
        wrecked: why its last student cannot be used; empty where it can.
    """

    result: str
    wrecked: str = ""

    def leave(self) -> None:
        """End a run that was wrecked, once all is written.

        Raises:
            Wrecked: it was.
        """
        if self.wrecked:
            told = f"the result is {self.result}" if self.result else self.wrecked
            raise Wrecked(told)


@contextlib.contextmanager
def failing_as_a_run() -> Iterator[None]:
    """Inside this block, where all that was asked has been checked, no OSError is bad input."""
    try:
        yield
    except (RunFailed, ConnectionError):
        raise
    except OSError as error:
        raise RunFailed(str(error) or type(error).__name__) from error
