"""A fuzzer for the reader, guided by coverage: what reaches new lines is kept and changed further.

    python -m benchmarks.fuzz SEEDS... [--count 20000] [--seed 0] [--corpus DIR]

SEEDS are network files. A file that breaks the rule (data, or a ValueError that says what is wrong,
within ten seconds) is written to the corpus folder, and the script ends with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import checkpoints
from benchmarks.mutations import mutated
from checkpoints.reader import read_stream

CORPUS = Path(__file__).parent.parent / "tests" / "checkpoints" / "corpus"
READER = str(Path(checkpoints.__file__).parent)
MAX_SECONDS = 10
MAX_BYTES = 100_000  # larger inputs are not kept for further change


class Lines:
    """The pairs of consecutive lines that code of the reader has run through, of all inputs."""

    def __init__(self) -> None:
        self.known: set[tuple[str, int, int]] = set()
        self.grew = False

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """A trace function for sys.settrace; frames outside of the reader are not followed."""
        file = frame.f_code.co_filename
        if not file.startswith(READER):
            return None
        before = frame.f_lineno

        def step(inner: FrameType, event: str, argument: Any) -> Any:
            nonlocal before
            pair = (file, before, inner.f_lineno)
            before = inner.f_lineno
            if pair not in self.known:
                self.known.add(pair)
                self.grew = True
            return step

        return step

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Collect lines inside of the block; `grew` says whether there were new ones."""
        self.grew = False
        previous = sys.gettrace()
        sys.settrace(self.trace)
        try:
            yield
        finally:
            sys.settrace(previous)


def check(raw: bytes) -> bool:
    """Read the bytes; True if they load, which must give data that can be walked and changed."""
    start = time.process_time()
    try:
        value = read_stream(io.BytesIO(raw), len(raw))
    except ValueError as error:
        assert str(error), "an error without a word"
        value = None
    assert time.process_time() - start < MAX_SECONDS, "it takes too long"
    for record in value.values() if type(value) is dict else ():
        if type(record) is checkpoints.Record:
            checkpoints.nonfinite(record)
            assert checkpoints.with_tensors(record, checkpoints.tensors(record))
    return value is not None


def explore(seeds: list[bytes], *, count: int, seed: int) -> Iterator[tuple[bytes, Exception]]:
    """Read count changed files, keeping those that reach something new; yield what fails."""
    rng, lines = random.Random(seed), Lines()
    pool = list(seeds)
    for raw in seeds:
        with lines.watching():
            check(raw)
    for _ in range(count):
        raw = mutated(rng.choice(pool), rng.choice(pool), rng)
        try:
            with lines.watching():
                check(raw)
        except Exception as error:  # whatever it is, it is what was looked for
            yield raw, error
            continue
        if lines.grew and 0 < len(raw) <= MAX_BYTES:
            pool.append(raw)
    print(f"{count} files, {len(pool) - len(seeds)} kept, {len(lines.known)} steps reached")


def main() -> int:
    """Fuzz, and write what fails into the corpus; the exit code."""
    parser = argparse.ArgumentParser(description="Fuzz the reader of network files.")
    parser.add_argument("seeds", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    given = parser.parse_args()
    given.corpus.mkdir(parents=True, exist_ok=True)
    failures = 0
    raws = [path.read_bytes() for path in given.seeds]
    for raw, error in explore(raws, count=given.count, seed=given.seed):
        failures += 1
        path = given.corpus / f"{hashlib.sha256(raw).hexdigest()[:16]}.bin"
        path.write_bytes(raw)
        print(f"{path}: {type(error).__name__}: {error}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
