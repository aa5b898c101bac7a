"""A fuzzer for network files, guided by coverage: what reaches new lines is kept and changed on.

    python -m benchmarks.fuzz SEEDS... [--count 20000] [--seed 0] [--networks] [--blind]

SEEDS are network files. Each changed file is read; with --networks it goes through `students.load`
and `teachers.load`. With --blind no lines are followed, which is several times as fast. A file that
breaks the rule (it loads, or a ValueError says what is wrong, within ten seconds and 2 GB; nothing
is run, nothing is written) goes to the corpus of the tests, and the script ends with 1. Runs of
other --seed see other files.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickletools
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch

import checkpoints
import students
import teachers
from checkpoints.pickles.machine import OPCODES
from checkpoints.pickles.reader import NAMES, read_stream

CORPUS = Path(__file__).parent.parent / "tests" / "checkpoints" / "corpus"
PACKAGES = tuple(str(Path(str(p.__file__)).parent) for p in (checkpoints, students, teachers))
MAX_SECONDS = 10  # of the processor: what else the machine does is no fault of the file
MAX_MEMORY = 2 * 2**30  # addresses of the whole process, of which Python and torch take a third
MAX_BYTES = 100_000  # larger inputs are not kept for further change
FORBIDDEN = ("exec", "compile", "import", "os.", "shutil.", "subprocess.", "socket.", "ctypes.")
NUMBERS = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f")


def mutated(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    """The bytes with a few random changes, or with opcodes of another file between its own."""
    if rng.random() < 0.2:
        return spliced(raw, other, rng)
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        change(data, other, rng)
    return bytes(data)


def change(data: bytearray, other: bytes, rng: random.Random) -> None:
    """One random change, in place."""
    at = rng.randrange(len(data) + 1)
    length = rng.choice((1, 1, 2, 4, 8, 40))
    kind = rng.randrange(8)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at : at + 1] = rng.randbytes(1)
    elif kind == 2:
        data[at : at + length] = b""
    elif kind == 3:
        start = rng.randrange(len(other))
        data[at : at + rng.choice((0, length))] = other[start : start + length]
    elif kind == 4:
        data[at:at] = rng.choice(tuple(OPCODES))
    elif kind == 5:
        number = rng.choice(NUMBERS)
        data[at : at + len(number)] = number
    elif kind == 6:
        module, name = rng.choice(tuple(NAMES))
        data[at:at] = f"c{module}\n{name}\n".encode()
    elif rng.random() < 0.2:
        del data[at:]


def spliced(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    """The file with whole opcodes of another put between its own, or in the place of some."""
    ours, theirs = opcodes(raw), opcodes(other)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if len(ours) < 3 or len(theirs) < 3:  # one of them is no pickle (any more)
            break
        at, start = rng.randrange(1, len(ours)), rng.randrange(1, len(theirs))
        taken = theirs[start : start + rng.choice((1, 1, 2, 5, 20))]
        kind = rng.randrange(3)
        if kind == 0:
            ours[at:at] = taken
        elif kind == 1:
            ours[at : at + len(taken)] = taken
        else:
            del ours[at : at + rng.choice((1, 1, 2, 5))]
    return b"".join(ours)


def opcodes(raw: bytes) -> list[bytes]:
    """The opcodes of a pickle with their arguments; what follows its end is the last one.

    In a file that is no pickle, those of the first pickle inside of it that has a few.
    """
    start = max(0, raw.find(b"\x80\x02" if raw.startswith(b"PK") else b"\x80"))
    places: list[int] = []
    file = io.BytesIO(raw[start:])
    # A file that an earlier change broke: its opcodes until there.
    with suppress(ValueError, IndexError, OverflowError, AttributeError):
        for _, _, place in pickletools.genops(file):
            places.append(place or 0)
    ends = [*places[1:], file.tell()]
    parts = [raw[start + a : start + b] for a, b in zip(places, ends, strict=False)]
    return [raw[:start], *parts, raw[start + ends[-1] :]] if places else [raw]


class Lines:
    """The pairs of consecutive lines that our code has run through, of all inputs."""

    def __init__(self, *, blind: bool = False) -> None:
        self.blind = blind
        self.known: set[tuple[str, int, int]] = set()
        self.grew = False

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """A trace function for sys.settrace; frames outside of PACKAGES are not followed."""
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGES):
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
        sys.settrace(previous if self.blind else self.trace)
        try:
            yield
        finally:
            sys.settrace(previous)


class Guard:
    """An audit hook that lets nothing run and nothing be written while it is on."""

    def __init__(self) -> None:
        self.on = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise RuntimeError for what no file may cause."""
        if not self.on:
            return
        writes = (
            event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+")
        )
        if writes or event.startswith(FORBIDDEN):
            raise RuntimeError(f"it does {event} {arguments[:1]}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Be on inside of the block."""
        self.on = True
        try:
            yield
        finally:
            self.on = False


GUARD = Guard()  # which `main` installs


@contextmanager
def in_time() -> Iterator[None]:
    """Raise TimeoutError inside of the block after MAX_SECONDS of processor time."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it takes more than {MAX_SECONDS} s")

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def check(raw: bytes) -> bool:
    """Read the bytes; True if they load, which must give data that can be walked and changed."""
    with in_time():
        try:
            value = read_stream(io.BytesIO(raw), len(raw))
        except ValueError as error:
            assert str(error), "an error without a word"
            return False
        for record in value.values() if type(value) is dict else ():
            if type(record) is checkpoints.Record and not record.foreign:
                checkpoints.nonfinite(record)
                assert checkpoints.with_tensors(record, checkpoints.tensors(record))
    return True


def check_networks(file: IO[bytes], raw: bytes) -> bool:
    """Load the bytes, put into the file, as a student and as a teacher; True if one loads."""
    file.seek(0)
    file.truncate()
    file.write(raw)
    file.flush()
    loaded = False
    for load in (students.load, teachers.load):
        with in_time():
            try:
                load(file.name)
                loaded = True
            except ValueError as error:
                assert str(error), "an error without a word"
    return loaded


def explore(
    seeds: list[bytes],
    *,
    count: int,
    seed: int,
    blind: bool = False,
    check: Callable[[bytes], bool] = check,
) -> Iterator[tuple[bytes, Exception]]:
    """Check count changed files, keeping those that reach something new; yield what fails."""
    rng, lines = random.Random(seed), Lines(blind=blind)
    pool, loaded = list(seeds), 0
    for raw in seeds:  # which also imports what is imported on first use
        with lines.watching():
            check(raw)
    for _ in range(count):
        raw = mutated(rng.choice(pool), rng.choice(pool), rng)
        try:
            with lines.watching(), GUARD.watching():
                loaded += check(raw)
        except Exception as error:  # whatever it is, it is what was looked for
            yield raw, error
            continue
        if lines.grew and 0 < len(raw) <= MAX_BYTES:
            pool.append(raw)
    kept = len(pool) - len(seeds)
    print(f"{count} files, {kept} kept, {len(lines.known)} steps reached, {loaded} loaded")


def main() -> int:
    """Fuzz, and write what fails into the corpus; the exit code."""
    parser = argparse.ArgumentParser(description="Fuzz the reading of network files.")
    parser.add_argument("seeds", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", action="store_true")
    parser.add_argument("--blind", action="store_true")
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    given = parser.parse_args()
    given.corpus.mkdir(parents=True, exist_ok=True)
    failures = 0
    raws = [path.read_bytes() for path in given.seeds]
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    sys.addaudithook(GUARD)
    with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
        one = partial(check_networks, file) if given.networks else check
        found = explore(raws, count=given.count, seed=given.seed, blind=given.blind, check=one)
        for raw, error in found:
            failures += 1
            path = given.corpus / f"{hashlib.sha256(raw).hexdigest()[:16]}.bin"
            path.write_bytes(raw)
            print(f"{path}: {type(error).__name__}: {error}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
