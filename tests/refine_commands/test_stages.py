"""A run can be ended in every stage, by a signal or its hours, and goes on to the same numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import refiners
import students
import teachers
from refiners.runs.interrupts import Interrupts, Stopped


@pytest.fixture(autouse=True)
def started_in_the_foreground() -> Iterator[None]:
    """Where these tests run in the background, a shell has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


ROOT = Path(__file__).parents[2]
KNOBS = {"num_reference": 100, "num_features": 8, "memory": 20}


class Calls:
    """Counts the calls of networks, and does something at one of them."""

    def __init__(self) -> None:
        self.count, self.at = 0, -1
        self.act: Callable[[], object] = lambda: None
        self.each: Callable[[], object] = lambda: None

    def __call__(self, *arguments: Any) -> None:
        self.count += 1
        self.each()
        if self.count == self.at:
            self.act()

    def __deepcopy__(self, memo: dict[int, Any]) -> Calls:
        return self


def job_of(files: Path, command: str, calls: Calls) -> Callable[..., Any]:
    """Return refine() or distil() of the embedded networks, whose calls are counted."""
    options: dict[str, Any] = {
        **{"kimg": 0.024, "batch": 8, "teacher_images": 100, "num": 100, "teacher_steps": 2},
        "settings": {"warmup_kimg": 0.016, "tick": 0.008, "snap": 1, "auxiliary_steps": 1},
    }
    teacher: Any = teachers.load(files / "teacher.pkl")
    teacher.register_forward_hook(calls)
    if command == "distil":
        return lambda **more: refiners.distil(teacher, **{**options, "report_steps": 2, **more})
    student: Any = students.load(files / "gan.pkl")
    student.register_forward_hook(calls)
    options |= {"knobs": KNOBS, "method": "diff-instruct-moments"}
    return lambda **more: refiners.refine(student, teacher, **{**options, **more})


def assert_equal(a: Any, b: Any) -> None:
    for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def end_and_go_on(
    job: Callable[..., Any], calls: Calls, outdir: Path, number: signal.Signals, at: int
) -> tuple[Any, str]:
    """End a run by a signal at a call, go on, and return its result and its log."""
    calls.count, calls.at = 0, at
    calls.act = lambda: os.kill(os.getpid(), number)
    ending = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with pytest.raises(ending):
        job(outdir=outdir)
    calls.at = -1
    result = job(outdir=outdir, resume="latest")
    (folder,) = outdir.iterdir()
    return result, (folder / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["refine", "distil"])
def test_a_run_is_ended_by_a_signal_in_any_stage_and_goes_on_to_the_same_numbers(
    files: Path, tmp_path: Path, command: str
) -> None:
    calls = Calls()
    job = job_of(files, command, calls)
    whole = job(outdir=tmp_path / "whole")
    total, said = calls.count, set()
    for i, share in enumerate((0.02, 0.2, 0.4, 0.55, 0.7, 0.97)):
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        result, log = end_and_go_on(
            job, calls, tmp_path / str(share), number, max(2, int(share * total))
        )
        assert_equal(whole, result)
        (line,) = [line for line in log.splitlines() if line.startswith("stopped ")]
        assert f" by {number.name}; resume continues from here" in line
        said.add(line.split(" by ")[0])
    assert {"stopped in the teacher's images", "stopped in the report"} < said
    assert len(said) > 3


def test_images_that_a_teacher_has_made_are_kept_and_not_made_again(
    files: Path, tmp_path: Path
) -> None:
    calls = Calls()
    job = job_of(files, "distil", calls)
    images = {"method": "diff-instruct-moments", "knobs": KNOBS, "keep": "last", "kimg": 0.008}
    whole = job(outdir=tmp_path / "whole", **images)
    total, outdir = calls.count, tmp_path / "parts"

    def end_after_a_part() -> None:
        if list(outdir.glob("*/teacher-images.parts/*.uint8")):
            os.kill(os.getpid(), signal.SIGTERM)

    calls.each = end_after_a_part
    with pytest.raises(SystemExit) as caught:
        job(outdir=outdir, **images)
    assert caught.value.code == 128 + signal.SIGTERM
    (folder,) = outdir.iterdir()
    assert len(list((folder / "teacher-images.parts").iterdir())) == 1
    calls.each = lambda: None
    with pytest.raises(ValueError, match=r"other input \(teacher_steps 2 -> 3\)"):
        job(outdir=outdir, resume="latest", **{**images, "teacher_steps": 3})
    calls.count = 0
    assert_equal(whole, job(outdir=outdir, resume="latest", **images))
    assert calls.count == total - 3  # of the part that was there, in two of Heun's steps
    assert not (folder / "teacher-images.parts").exists()


def test_hours_that_are_over_before_the_first_step_leave_the_original(
    files: Path, tmp_path: Path
) -> None:
    calls = Calls()
    job = job_of(files, "refine", calls)
    settings = {"warmup_kimg": 0.016, "tick": 0.008, "max_hours": 0.1 / 3600}
    found = job(outdir=tmp_path, settings=settings)
    assert_equal(found, students.load(files / "gan.pkl"))
    (folder,) = tmp_path.iterdir()
    log = (folder / "log.txt").read_text()
    assert " by max_hours; resume continues from here" in log


def test_a_stage_is_left_at_once_when_its_hours_are_over() -> None:
    began = time.monotonic()
    with (
        pytest.raises(Stopped, match="a long stage"),
        Interrupts(0.2 / 3600) as interrupts,
        interrupts.at_once("a long stage"),
    ):
        while time.monotonic() < began + 20:
            time.sleep(0.01)
    assert time.monotonic() - began < 10
    assert (interrupts.why, interrupts.received) == ("max_hours", None)


def test_what_may_not_be_left_half_done_is_ended_first() -> None:
    with Interrupts(0.05 / 3600) as interrupts:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        done = True
        with pytest.raises(Stopped), interrupts.at_once("the next stage"):
            done = False
        assert done
    assert interrupts.late and interrupts.received == signal.SIGTERM


def test_hours_are_counted_from_when_they_began_and_by_a_clock_where_no_signal_reaches() -> None:
    found = []

    def work() -> None:
        with Interrupts(1.0, began=time.monotonic() - 3601) as interrupts:
            found.append(interrupts.late)

    other = threading.Thread(target=work)
    other.start()
    other.join()
    assert found == [True]
    assert not Interrupts(0.0).late


# Forks a process for each try, so that torch is imported once, and ends it at a random moment of
# its first seconds, by SIGKILL or SIGTERM in turn, until one comes to the end.
KILLER = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
import refiners
from pathlib import Path

files, outdir, ends, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
options = dict(
    kimg=0.048, batch=8, teacher_images=100, num=100, teacher_steps=2, device="cpu",
    method="diff-instruct-moments",
    knobs={"num_reference": 100, "num_features": 8, "memory": 20},
    settings={"warmup_kimg": 0.016, "tick": 0.008, "snap": 1},
)

def run(outdir, **more):
    pair = files / "gan.pkl", files / "teacher.pkl"
    return refiners.refine(*pair, **options, outdir=outdir, **more)

began = time.monotonic()
whole = run(outdir / "whole")
seconds = time.monotonic() - began
pictures = {path.name: path.read_bytes() for path in (outdir / "whole").glob("*/*.png")}
random.seed(seed)
done = runs = 0
while True:
    parts = outdir / f"parts{runs}"
    child = os.fork()
    if not child:
        log = open(outdir / "said.txt", "a")
        os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        begun = list(parts.glob("*/training_options.json"))
        refined = run(parts, resume="latest" if begun else None)
        torch.save(refined.state_dict(), outdir / "end.pt")
        os._exit(0)
    if done < ends:
        time.sleep(random.uniform(0.1, 0.8) * seconds)
        os.kill(child, random.choice((signal.SIGKILL, signal.SIGTERM)))
    status = os.waitpid(child, 0)[1]
    if status == 0:
        found = torch.load(outdir / "end.pt")
        assert all(torch.equal(found[name], value) for name, value in whole.state_dict().items())
        folder = max(parts.glob("*/report.html")).parent
        assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == pictures
        assert not list(folder.glob(".*.tmp"))
        runs += 1
        if done >= ends:
            break
        continue
    if os.waitstatus_to_exitcode(status) not in (-signal.SIGKILL, -signal.SIGTERM, 143):
        sys.exit(f"a try ended with {status}")
    done += 1
print("ended", done, "times in", runs, "runs")
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_that_is_ended_at_random_moments_of_every_stage_ends_as_the_undisturbed_one(
    files: Path, tmp_path: Path, seed: int
) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    command = [sys.executable, str(script), str(files), str(tmp_path), "25", str(seed)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    said = tmp_path / "said.txt"
    assert ended.returncode == 0, ended.stderr + (said.read_text() if said.exists() else "")
    assert ended.stdout.splitlines()[-1].startswith("ended 25 times in ")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_the_program_ends_with_the_code_of_its_signal_and_says_how_to_go_on(
    files: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, str(ROOT / "refine.py"), "gan", "--outdir", str(tmp_path / "out")]
    command += ["--student", str(files / "gan.pkl"), "--teacher", str(files / "teacher.pkl")]
    command += ["--kimg", "1000", "--batch", "8", "--keep", "last", "--device", "cpu"]
    command += ["--method", "diff-instruct", "--warmup-kimg", "0.008"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if b"tick 0" in line:
                process.send_signal(number)
        assert process.wait(timeout=120) == code
    (log,) = tmp_path.glob("out/*/log.txt")
    assert f"by {number.name}; resume continues from here" in log.read_text()
    assert list(log.parent.glob("training-state-*.pt"))
