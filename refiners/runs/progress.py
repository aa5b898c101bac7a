"""A stage's progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable


def stage_bar(description: str) -> Callable[[int, int], None]:
    """Return a callback (done, total) that shows a stage's progress on a terminal."""
    from tqdm import tqdm

    bar = tqdm(unit="img", dynamic_ncols=True, disable=None, file=sys.stderr, leave=False)
    bar.set_description(description)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update
