"""Compile the kernels for this machine, once, into the cache folder.

A library is its sources, flags and processor in one hash; it appears by renaming, so that what is
there is whole. A lock keeps several processes from compiling the same; one whose owner died is
broken after STALE_SECONDS, so nothing waits for ever. The compiler's output is in the log beside.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
HEADERS = ("threads.h",)
FILES = ("cpu.cpp", "winograd.cpp", "panels.cpp")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden")
COMPILE_SECONDS = 240  # after which a compiler is given up
STALE_SECONDS = 300  # after which a lock's owner must be dead: longer than any compiler may take
POLL_SECONDS = 0.1


class BuildError(OSError):
    """A library that cannot be made or loaded; the message is one line."""


def cache_folder() -> Path:
    """Where compiled kernels are kept: kernels/ in $REFINE_CACHE_DIR or ~/.cache/refine-gan."""
    own = os.environ.get("REFINE_CACHE_DIR")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(own) if own else Path(shared) / "refine-gan") / "kernels"


def compiler() -> str | None:
    """The C++ compiler: $CXX, else the first of g++, clang++, c++ that is installed."""
    given = os.environ.get("CXX")
    names = [given] if given else ["g++", "clang++", "c++"]
    return next((found for name in names if (found := shutil.which(name))), None)


def command() -> list[str]:
    """The compiler call, without its output file.

    Raises:
        BuildError: there is no compiler, or not for this system.
    """
    found = compiler()
    if os.name != "posix":
        raise BuildError(f"kernels are built on Linux and macOS, not on {platform.system()}")
    if found is None:
        raise BuildError("no C++ compiler (install g++) was found")
    native = [] if platform.machine() == "arm64" else ["-march=native"]
    flags = [*FLAGS, *native, "-fPIC", "-shared", "-pthread"]
    return [found, *flags, *(str(SOURCES / name) for name in FILES)]


@functools.cache
def library() -> ctypes.CDLL:
    """Load the kernels; compile them if need be.

    Raises:
        BuildError: no compiler, a compiler that fails (with its first error), no place to write.
    """
    try:
        path = cache_folder() / f"cpu-{fingerprint()}.so"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with alone(path.with_suffix(".lock")):
                if not path.exists():
                    compile_to(path, command())
        return ctypes.CDLL(str(path))
    except BuildError:
        raise
    except OSError as error:
        raise BuildError(" ".join(str(error).split())) from error


@functools.cache
def fingerprint() -> str:
    """Hash of all that makes one library differ from another."""
    digest = hashlib.sha256("\0".join([*command(), processor(), sys.platform]).encode())
    for name in (*HEADERS, *FILES):
        digest.update((SOURCES / name).read_bytes())
    return digest.hexdigest()[:16]


def processor() -> str:
    """What the processor can do: a home folder may be shared between machines."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def compile_to(path: Path, call: Sequence[str]) -> None:
    """Run a compiler call; its product appears at path whole, its output in the log beside it."""
    log = path.with_suffix(".log")
    with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as folder:
        product = Path(folder) / path.name
        try:
            done = subprocess.run(
                [*call, "-o", str(product)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=COMPILE_SECONDS,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired as error:
            raise BuildError(
                f"{call[0]} took longer than {COMPILE_SECONDS} s and was stopped"
            ) from error
        log.write_text(" ".join(call) + "\n" + done.stdout, encoding="utf-8")
        if done.returncode != 0 or not product.exists():
            raise BuildError(f"{first_error(done.stdout) or f'{call[0]} failed'} (log: {log})")
        os.replace(product, path)


def first_error(output: str) -> str:
    """The first line that speaks of an error, else the first line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")


@contextmanager
def alone(lock: Path, *, stale_seconds: float = STALE_SECONDS) -> Iterator[None]:
    """Hold a lock file, waiting for its owner no longer than stale_seconds from when it took it."""
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            try:
                age = time.time() - lock.stat().st_mtime
            except FileNotFoundError:
                continue
        if age > stale_seconds:
            print(
                f"The lock {lock} is older than {stale_seconds:g} s; its owner died: broken.",
                file=sys.stderr,
            )
            lock.unlink(missing_ok=True)
        else:
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
