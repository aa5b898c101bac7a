"""The folder of one run: NNNNN-desc/ with options, log, statistics, pictures, snapshots and states.

Whole files are written aside, flushed to disk and renamed, so that a stopped run leaves the old
file or the new one, never half of one; lines are appended to log.txt and *.jsonl. A run locks its
folder, so that no two processes write there.
"""

from __future__ import annotations

import json
import os
import re
import weakref
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import torch

import checkpoints
from refiners.training.state import State

fcntl: ModuleType | None
msvcrt: ModuleType | None
try:
    import fcntl
except ImportError:
    fcntl = None
try:
    import msvcrt
except ImportError:
    msvcrt = None

STATE_PATTERN = re.compile(r"training-state-(\d{6,})(?:_(\d{3}))?\.pt")  # see schedule.label
RUN_PATTERN = re.compile(r"(\d{5,})-.*")
LOCK_FILE = ".lock"
OPTIONS_FILE = "training_options.json"
ASIDE_PATTERN = re.compile(r"\..+\.[0-9a-f]+\.tmp")  # what is written before it is renamed
KEPT_STATES = 2


class RunFolder:
    """One run's files; create() makes a new folder, latest() finds the newest to continue."""

    def __init__(self, path: Path):
        self.path = path
        self._unlock: Callable[[], object] = lambda: None

    @classmethod
    def create(cls, outdir: Path, desc: str) -> RunFolder:
        """Make outdir/NNNNN-desc with the next free number; an existing folder is never reused.

        Raises:
            ValueError: the folder cannot be made or written.
        """
        try:
            outdir.mkdir(parents=True, exist_ok=True)
            number = cls._take_number(outdir)
            path = outdir / f"{number:05d}-{desc}"
            _claim(outdir, number).rename(path)
        except OSError as error:
            raise ValueError(
                f"cannot make a run folder in {outdir}: {error.strerror}; "
                "give a folder that can be written"
            ) from error
        return cls(path)

    @staticmethod
    def _take_number(outdir: Path) -> int:
        """Return a run number that is nobody else's, and make the folder .NNNNN that holds it."""
        number = 0
        while True:
            number = max(number, *(n + 1 for n in _numbers(outdir)), 0)
            claim = _claim(outdir, number)
            try:
                claim.mkdir()  # fails for all but one, whatever their runs are called
            except FileExistsError:
                number += 1
                continue
            # Another may have taken the number, and named its folder, since the list was read.
            if number not in _numbers(outdir):
                return number
            claim.rmdir()

    @classmethod
    def latest(cls, outdir: Path) -> RunFolder:
        """Return the newest run in outdir, or outdir itself, that has a training state.

        One that has its options alone was ended before its first step, and begins with that.
        """
        runs = [outdir, *sorted(outdir.glob("[0-9]*-*"))]
        runs = [
            run
            for run in runs
            if run.is_dir() and (cls(run).states() or (run / OPTIONS_FILE).is_file())
        ]
        if not runs:
            raise ValueError(
                f"no training-state-*.pt under {outdir}; "
                "give the --outdir of a run to continue, or its folder"
            )
        return cls(runs[-1])

    @classmethod
    def to_continue(cls, resume: str, outdir: Path) -> tuple[RunFolder, Path | None]:
        """Return the run that `latest`, a run folder or a state names, and the state if it is one.

        Raises:
            ValueError: there is nothing to continue from.
        """
        path = Path(resume)
        if resume == "latest":
            return cls.latest(outdir), None
        if not path.exists():
            raise ValueError(
                f"resume is {resume}, which does not exist; "
                "give latest, the folder of a run or its training-state-*.pt"
            )
        if path.is_dir():
            return cls.latest(path), None
        if path.suffix == ".pkl":
            raise ValueError(
                f"resume is {resume}, a network, and a run continues from its training state; "
                "to start anew from a network's weights use --transfer"
            )
        if not path.is_file() or not STATE_PATTERN.fullmatch(path.name):
            raise ValueError(
                f"resume is {resume}; give latest, the folder of a run or its training-state-*.pt"
            )
        return cls(path.parent), path

    def lock(self) -> None:
        """Keep the folder for this process until unlock() or its end, however that comes.

        Raises:
            ValueError: another run has it.
            OSError: nothing can be written there.
        """
        descriptor = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock_file(descriptor)
        except (BlockingIOError, PermissionError) as error:
            os.close(descriptor)
            raise ValueError(
                f"{self.path} is in use by another run; wait for that to end, or end it"
            ) from error
        except OSError as error:
            os.close(descriptor)
            self.log(
                f"{error.strerror}: the file system has no locks; let no second run write here"
            )
            return
        self._unlock = weakref.finalize(self, os.close, descriptor)

    def unlock(self) -> None:
        """Let others have the folder."""
        self._unlock()

    def states(self) -> list[Path]:
        """Return the training states, oldest first."""
        found = [(images_of(p), p) for p in self.path.iterdir() if STATE_PATTERN.fullmatch(p.name)]
        return [path for _, path in sorted(found)]

    def newest_state(self) -> State:
        """Read the newest state that is whole; a damaged one is said and passed over.

        Raises:
            ValueError: there is none, with what is wrong with the newest.
        """
        states = self.states()[::-1]
        if not states:
            raise ValueError("there is no training state to resume from; give the folder of a run")
        complaints: list[str] = []
        for path in states:
            try:
                state = read_state(path)
            except ValueError as error:
                complaints.append(str(error))
                continue
            for complaint in complaints:
                self.log(f"{complaint}; continuing from {path.name}")
            return state
        raise ValueError(complaints[0])

    def set_aside_after(self, num_images: int) -> None:
        """Rename later states, damaged ones too, to NAME.aside: the run goes its own way."""
        for path in self.states():
            if images_of(path) > num_images:
                path.replace(path.with_name(f"{path.name}.aside"))

    def sweep(self) -> None:
        """Delete the halves of files that a killed process was writing."""
        for path in self.path.iterdir():
            if ASIDE_PATTERN.fullmatch(path.name):
                path.unlink()

    def log(self, text: str) -> None:
        """Append a line to log.txt and print it."""
        print(text, flush=True)
        self._append_line("log.txt", text)

    def append(self, name: str, line: Mapping[str, object]) -> None:
        """Append one JSON object to a .jsonl file."""
        self._append_line(name, json.dumps(line))

    def _append_line(self, name: str, text: str) -> None:
        """Append a line as a whole or, where the disk is full, not at all."""
        line = f"{text}\n".encode()
        with open(self.path / name, "ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                written = file.write(line)
                if written != len(line):
                    file.write(line[written:])  # says what is wrong
            except OSError:
                file.truncate(before)
                raise

    def write_json(self, name: str, data: Mapping[str, object]) -> None:
        """Write a JSON file as a whole."""
        text = json.dumps(data, indent=2) + "\n"
        with checkpoints.replacing(self.path / name) as file:
            file.write(text.encode())

    def write_state(self, label: str, state: Mapping[str, object]) -> Path:
        """Write training-state-LABEL.pt, see schedule.label; it loads with weights_only=True."""
        path = self.path / f"training-state-{label}.pt"
        with checkpoints.replacing(path) as file:
            try:
                torch.save(dict(state), file)
            except RuntimeError as error:
                # torch closes the archive and complains of that, not of the disk that is full.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        return path

    def drop_states(self, keep: int = KEPT_STATES) -> None:
        """Delete all but the newest states."""
        for path in self.states()[:-keep]:
            path.unlink()


def _claim(outdir: Path, number: int) -> Path:
    """Return the folder that holds a run's number until it is called by it."""
    return outdir / f".{number:05d}"


def _numbers(outdir: Path) -> list[int]:
    """Return the numbers of the runs in a folder."""
    found = [RUN_PATTERN.fullmatch(path.name) for path in outdir.iterdir()]
    return [int(name[1]) for name in found if name]


def _lock_file(descriptor: int) -> None:
    """Lock an open file for as long as it is open, or raise OSError at once."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:  # Windows, where a byte can be locked that the file does not have.
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


def images_of(path: Path) -> int:
    """Return the images of a training state by its name, at least; exact where they are in it."""
    found = STATE_PATTERN.fullmatch(path.name)
    assert found is not None
    return int(found[1]) * 1000 + int(found[2] or 0)


def read_state(path: Path) -> State:
    """Read a training state without running anything in it; every byte is checked by its CRC-32.

    Raises:
        ValueError: the file is missing, damaged, or not a training state.
    """
    try:
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files; all mean the same here
        raise ValueError(
            f"{path} cannot be read as a training state: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    if not isinstance(state, dict) or "num_images" not in state:
        raise ValueError(f"{path} is no training state; give a training-state-*.pt of this program")
    return state


def check_archive(path: Path) -> None:
    """Raise ValueError or zipfile.BadZipFile unless each entry has the CRC-32 that it was given.

    torch.save writes the sums, torch.load does not look at them.
    """
    with zipfile.ZipFile(path) as archive:
        # torch stores entries as they are; a compressed one could be a bomb.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its entries are compressed, which this program never does")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"its checksum is wrong in {damaged}; the file was damaged on disk")
