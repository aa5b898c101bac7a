"""How a run ends early, recovers, and which student it hands back."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refiners import RunFolder, Settings, read_state
from refiners.diff_instruct import DiffInstruct
from refiners.runs.endings import Wrecked
from refiners.runs.interrupts import Interrupts
from refiners.sds import SDS
from tests.refiners.conftest import refine_toys

SHORT: dict[str, Any] = {
    **{"batch": 16, "glr": 0.02, "lr": 0.02, "warmup_kimg": 0.16, "rampup_kimg": 0},
    **{"auxiliary_steps": 1, "tick": 0.064, "snap": 1},
}


@pytest.fixture(autouse=True)
def started_in_the_foreground() -> Iterator[None]:
    """Where these tests run in the background, a shell has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(affine: Any, gaussian: Any, **arguments: Any) -> Any:
    """Refine the toy for 20 steps of 16 images, or as the arguments say."""
    chosen = {"kimg": 0.32, "progress": False, **arguments}
    options = Settings(**{**SHORT, "kimg": chosen["kimg"], **chosen.pop("changes", {})})
    return refine_toys(affine(-0.4, 0.3), gaussian(0.3, 0.5), settings=options, **chosen)


def keep(student: torch.nn.Module, path: Path) -> None:
    torch.save(student.state_dict(), path)


def log_of(folder: RunFolder) -> str:
    return (folder.path / "log.txt").read_text()


class Signals(DiffInstruct):
    """Diff-Instruct that sends signals to this process in the middle of a step."""

    sent = 0

    def pixel_gradient(self, *arguments: Any, **options: Any) -> Any:
        if Signals.sent < 1:
            Signals.sent += 1
            os.kill(os.getpid(), Signals.number)
        return super().pixel_gradient(*arguments, **options)

    number = signal.SIGTERM


@pytest.mark.parametrize(
    ("number", "ending"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_lets_the_step_finish_and_the_state_be_written_to_continue_from(
    affine: Any, gaussian: Any, tmp_path: Path, number: signal.Signals, ending: type
) -> None:
    Signals.sent, Signals.number = 0, number
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    folder = RunFolder.create(tmp_path, "run")
    with pytest.raises(ending) as caught:
        start(affine, gaussian, folder=folder, method=Signals())
    if ending is SystemExit:
        assert caught.value.code == 128 + signal.SIGTERM
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    # One student step was under way when the signal came.
    assert read_state(folder.states()[-1])["step"] == 11
    assert f"stopped at kimg 0.016 by {number.name}; resume" in log_of(folder)
    continued = start(affine, gaussian, folder=folder, method=Signals(), resume=True)
    whole = start(affine, gaussian, method=Signals())
    for a, b in zip(whole.parameters(), continued.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_second_signal_acts_at_once() -> None:
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt), interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_was_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_max_hours_ends_the_run_with_snapshot_and_state_to_continue_from(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=folder, changes={"max_hours": 1e-9, "warmup_kimg": 0.032})
    assert read_state(folder.states()[-1])["step"] == 1
    assert "stopped at kimg 0 by max_hours" in log_of(folder)
    whole = start(affine, gaussian, changes={"warmup_kimg": 0.032})
    continued = start(
        affine, gaussian, folder=folder, resume=True,
        changes={"max_hours": 1.0, "warmup_kimg": 0.032},
    )  # fmt: skip
    assert torch.equal(whole.mean, continued.mean)


def test_a_condition_ends_the_run_at_the_tick_where_it_holds(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=folder, changes={"stop_if": "Progress/kimg>0.1"})
    assert "stopped at kimg 0.128 by stop_if Progress/kimg>0.1; resume" in log_of(folder)
    assert read_state(folder.states()[-1])["num_images"] == 128


def test_a_condition_on_what_there_is_not_is_said_at_each_tick(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=folder, kimg=0.064, changes={"stop_if": "Loss/nose>0"})
    assert log_of(folder).count("stop_if never holds: there is no Loss/nose") == 1


def test_a_step_that_is_not_finite_is_counted_in_the_log_and_the_statistics(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    FailsAtFullRate.steps, FailsAtFullRate.limit = 0, 1
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=folder, method=FailsAtFullRate(), kimg=0.128)
    lines = [json.loads(s) for s in (folder.path / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/skipped_steps"]["mean"] for line in lines] == [0, 0, 1]
    assert log_of(folder).splitlines()[-2].endswith(" skipped 1")


def test_the_figures_that_warn_are_in_every_tick_and_a_picture_in_every_snapshot(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=folder, changes={"snap": 2})
    lines = [json.loads(s) for s in (folder.path / "stats.jsonl").read_text().splitlines()]
    warn = ("saturated", "diversity", "mean_drift", "std_drift", "score_gap_0.2", "error_share_3")
    for line in lines:
        assert {f"Health/{name}" for name in warn} <= line.keys()
    norms = ("Gradient/pixel_norm", "Gradient/student_norm", "Gradient/auxiliary_norm")
    assert all(line[name]["mean"] > 0 for line in lines[1:] for name in norms)
    assert lines[0]["Health/mean_drift"]["mean"] == 0 < lines[-1]["Health/mean_drift"]["mean"]
    picture = np.asarray(Image.open(folder.path / "health-000000.png"))
    # 8 samples; each, and for 3 levels noised, as the teacher and as the auxiliary see it; 4 pixels
    assert picture.shape == (8 * 4, 10 * 4)


def test_a_damaged_newest_state_falls_back_to_the_one_before_with_the_same_end(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    changes = {"batch": 250, "tick": 1, "warmup_kimg": 0.5}
    whole = start(affine, gaussian, kimg=4, changes=changes)
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, kimg=3, folder=folder, changes=changes)
    older, newest = folder.states()
    newest.write_bytes(newest.read_bytes()[:-1])
    continued = start(affine, gaussian, kimg=4, folder=folder, changes=changes, resume=True)
    assert torch.equal(whole.mean, continued.mean)
    assert f"continuing from {older.name}" in log_of(folder)


class FailsAtFullRate(DiffInstruct):
    """Diff-Instruct whose gradient is not a number from a step on, until the rates are lower."""

    steps = 0
    limit = 3

    def pixel_gradient(self, x_0: Any, *arguments: Any, **options: Any) -> Any:
        FailsAtFullRate.steps += 1
        g = super().pixel_gradient(x_0, *arguments, **options)
        return g * float("nan") if 4 < FailsAtFullRate.steps <= 4 + FailsAtFullRate.limit else g


def test_three_steps_that_are_not_finite_go_back_to_the_last_state_and_halve_the_rates(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    FailsAtFullRate.steps, FailsAtFullRate.limit = 0, 3
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=folder, method=FailsAtFullRate())
    log = log_of(folder)
    assert "3 steps in a row" in log
    assert "back at kimg 0.064, with half the rates" in log
    state = read_state(folder.states()[-1])
    assert (state["num_images"], state["rate_scale"]) == (320, 0.5)
    assert state["student_adam"]["param_groups"][0]["lr"] == 0.01
    assert state["auxiliary_adam"]["param_groups"][0]["lr"] == 0.01


def test_where_half_the_rates_do_not_help_the_run_stops_with_the_reason(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    FailsAtFullRate.steps, FailsAtFullRate.limit = 0, 1000
    folder = RunFolder.create(tmp_path, "run")
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        start(affine, gaussian, folder=folder, method=FailsAtFullRate())
    assert log_of(folder).count("back at kimg") == 1
    FailsAtFullRate.steps = 0
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        start(affine, gaussian, method=FailsAtFullRate())


def judge_by_mean(target: float) -> Any:
    return lambda student: abs(student.mean.item() - target)


def test_the_judge_sees_the_original_first_and_the_best_student_is_the_result(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    seen: list[float] = []

    def judge(student: Any) -> float:
        assert not student.training
        seen.append(student.mean.item())
        return abs(student.mean.item() + 0.35)  # the run passes -0.35 on its way from -0.4

    folder = RunFolder.create(tmp_path, "run")
    changes = {"batch": 250, "tick": 1, "warmup_kimg": 2.5}
    best = start(affine, gaussian, folder=folder, judge=judge, save=keep, kimg=10, changes=changes)
    assert seen[0] == pytest.approx(-0.4)
    # The original and ten snapshots, and then points on the line from it to the best of them.
    assert best.mean.item() == min(seen, key=lambda mean: abs(mean + 0.35))
    assert best.mean.item() not in (seen[0], seen[10])
    assert torch.load(folder.path / "result.pkl")["mean"].item() == best.mean.item()
    assert "the result is a network 0.75 times the way from the original" in log_of(folder)
    assert ", chosen by the judge (" in log_of(folder)
    lines = (folder.path / "metric-judge.jsonl").read_text().splitlines()
    judged = [json.loads(line) for line in lines]
    assert [line["kimg"] for line in judged] == list(range(11))
    assert [line["judge"] for line in judged] == [abs(mean + 0.35) for mean in seen[:11]]


def test_a_run_that_only_made_things_worse_keeps_the_original(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path, "run")
    kept = start(affine, gaussian, folder=folder, judge=judge_by_mean(-0.4), save=keep)
    assert kept.mean.item() == pytest.approx(-0.4)
    assert "the original: nothing was nearer to the judge's images (5.96e-09)" in log_of(folder)
    assert torch.load(folder.path / "result.pkl")["mean"].item() == kept.mean.item()
    snapshots = sorted(folder.path.glob("network-snapshot-*.pkl"))
    assert all(torch.load(path)["mean"].item() != kept.mean.item() for path in snapshots)


@pytest.mark.parametrize("opinion", [None, float("nan")])
def test_a_judge_without_an_opinion_leaves_the_last_student(
    affine: Any, gaussian: Any, opinion: float | None
) -> None:
    a = start(affine, gaussian, judge=lambda student: opinion)
    b = start(affine, gaussian)
    assert torch.equal(a.mean, b.mean)


def test_the_best_student_so_far_survives_a_stop(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=folder, judge=judge_by_mean(-0.4), kimg=0.128)
    calls: list[float] = []

    def judge(student: Any) -> float:
        calls.append(student.mean.item())
        return judge_by_mean(-0.4)(student)

    kept = start(affine, gaussian, folder=folder, judge=judge, resume=True)
    assert kept.mean.item() == pytest.approx(-0.4)
    assert len(calls) == 1  # at the end; the original is not judged again
    unjudged = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=unjudged, kimg=0.128)
    with pytest.raises(ValueError, match="the state was made without a judge"):
        start(affine, gaussian, folder=unjudged, judge=judge, resume=True)


def test_transfer_starts_from_the_networks_of_another_run(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    first = RunFolder.create(tmp_path, "first")
    ended = start(affine, gaussian, folder=first)
    seen: list[float] = []
    start(
        affine, gaussian, transfer=first.states()[-1], changes={"glr": 0.001, "warmup_kimg": 0.016},
        measure=lambda student, n: seen.append(student.mean.item()) or {},
    )  # fmt: skip
    assert seen[0] == ended.mean.item()


def test_a_method_without_an_auxiliary_has_no_warm_up_and_no_health(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path, "run")
    start(affine, gaussian, folder=folder, method=SDS())
    state = read_state(folder.states()[-1])
    assert state["step"] == 20
    assert "auxiliary" not in state
    log = log_of(folder)
    assert "tick 5" in log
    assert "error" not in log


def test_a_wrecked_run_writes_the_original_as_its_result_and_ends_in_an_error(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path, "run")
    with pytest.raises(Wrecked, match=r"the result is the original; the run was wrecked at kimg"):
        start(affine, gaussian, folder=folder, save=keep, changes={"glr": 10.0, "ema": 0})
    assert torch.load(folder.path / "result.pkl")["mean"].item() == pytest.approx(-0.4)
    assert "by its health; resume continues from here" in log_of(folder)
    assert folder.states()


def test_a_wrecked_run_hands_back_the_original_whatever_the_judge_liked_on_the_way(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    folder, likes = RunFolder.create(tmp_path, "run"), judge_by_mean(-10.0)
    changes = {"glr": 10.0, "ema": 0, "batch": 250, "tick": 1, "warmup_kimg": 2.5}
    with pytest.raises(Wrecked, match=r"the result is the original; the run was wrecked at kimg"):
        start(affine, gaussian, folder=folder, save=keep, judge=likes, kimg=10, changes=changes)
    assert torch.load(folder.path / "result.pkl")["mean"].item() == pytest.approx(-0.4)


def test_patience_ends_a_run_that_the_judge_no_longer_sees_improve_and_a_resume_keeps_to_it(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    """The toy's mean passes -0.3 within some kimg, and the judge likes it best there."""
    whole, parts = (RunFolder.create(tmp_path, name) for name in ("whole", "parts"))
    changes = {"batch": 250, "tick": 1, "warmup_kimg": 2.5}
    patient = {**changes, "patience_kimg": 3}
    kept: dict[str, Any] = {"judge": judge_by_mean(-0.3), "save": keep, "kimg": 30}
    a = start(affine, gaussian, folder=whole, changes=patient, **kept)
    judged = [json.loads(x) for x in (whole.path / "metric-judge.jsonl").read_text().splitlines()]
    numbers = [line["judge"] for line in judged]
    assert len(numbers) - 1 - numbers.index(min(numbers)) == 3 and len(numbers) < 30
    last = judged[-1]["kimg"]
    assert f"stopped at kimg {last:g} by the judge's number not having fallen for 3 kimg" in log_of(
        whole
    )
    # Killed at the moment that it had to stop, it stops there; with more patience it goes on.
    start(affine, gaussian, folder=parts, changes=changes, **{**kept, "kimg": last})
    b = start(affine, gaussian, folder=parts, changes=patient, resume=True, **kept)
    assert torch.equal(a.mean, b.mean)
    assert read_state(parts.states()[-1])["num_images"] == 1000 * last
    more = {**changes, "patience_kimg": 5}
    start(affine, gaussian, folder=parts, changes=more, resume=True, **kept)
    assert read_state(parts.states()[-1])["num_images"] == 1000 * (last + 2)
