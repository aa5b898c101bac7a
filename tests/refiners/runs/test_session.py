"""refine_toys(): a whole run from Python, its files, and continuing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refiners import RunFolder, Settings, read_state
from refiners.runs.pictures import GRID_COLUMNS, GRID_ROWS, sample_grid, save_grid
from tests.refiners.conftest import refine_toys

SHORT: dict[str, Any] = {
    **{"batch": 16, "glr": 0.02, "lr": 0.02, "warmup_kimg": 0.16, "rampup_kimg": 0},
    **{"auxiliary_steps": 1, "tick": 0.064, "snap": 2},
}


def start(affine: Any, gaussian: Any, **arguments: Any) -> Any:
    """Refine the toy for 20 steps of 16 images, or as the arguments say."""
    chosen = {"kimg": 0.32, "batch": 16, "progress": False, **arguments}
    options = Settings(**{**SHORT, "kimg": chosen["kimg"], **chosen.pop("changes", {})})
    return refine_toys(affine(-0.4, 0.3), gaussian(0.3, 0.5), settings=options, **chosen)


def keep(student: torch.nn.Module, path: Path) -> None:
    torch.save(student.state_dict(), path)


def test_the_refined_student_is_a_new_one_that_moved_towards_the_teacher(
    affine: Any, gaussian: Any
) -> None:
    student = affine(-0.4, 0.3)
    options = Settings(kimg=0.32, **SHORT)
    refined: Any = refine_toys(student, gaussian(0.3, 0.5), kimg=0.32, batch=16, settings=options)
    assert student.mean.item() == pytest.approx(-0.4)
    assert -0.39 < refined.mean.item() < 0.3
    assert not any(parameter.requires_grad for parameter in refined.parameters())


def test_a_run_without_a_folder_writes_nothing(
    affine: Any, gaussian: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start(affine, gaussian)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_holds_log_statistics_pictures_snapshots_and_the_last_two_states(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    changes = {"tick": 1, "snap": 1}
    start(affine, gaussian, kimg=4, batch=250, outdir=tmp_path, save=keep, changes=changes)
    (folder,) = tmp_path.iterdir()
    kimg = [f"{k:06d}" for k in (1, 2, 3, 4)]
    assert {path.name for path in folder.iterdir()} == {
        *("log.txt", "stats.jsonl", "result.pkl"),
        *(f"fakes{k}.png" for k in kimg),
        *(f"health-{k}.png" for k in ("000000", *kimg)),
        *(f"network-snapshot-{k}.pkl" for k in kimg),
        *(f"training-state-{k}.pt" for k in kimg[-2:]),
    }
    assert len((folder / "log.txt").read_text().splitlines()) == 6


def test_snapshots_within_a_kimg_overwrite_none_and_two_states_are_kept(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    start(affine, gaussian, kimg=0.32, outdir=tmp_path, save=keep)
    (folder,) = tmp_path.iterdir()
    ends = [f"000000_{n:03d}" for n in (128, 256, 320)]
    found = sorted(path.name for path in folder.glob("network-snapshot-*.pkl"))
    assert found == [f"network-snapshot-{name}.pkl" for name in ends]
    states = sorted(folder.glob("training-state-*.pt"))
    assert [path.name for path in states] == [f"training-state-{name}.pt" for name in ends[-2:]]
    assert [read_state(path)["num_images"] for path in states] == [256, 320]


def test_statistics_have_stylegans_form_and_a_line_after_the_warm_up_and_each_tick(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    start(affine, gaussian, outdir=tmp_path)
    (folder,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/kimg"]["mean"] for line in lines] == [
        0,
        0.064,
        0.128,
        0.192,
        0.256,
        0.32,
    ]
    for line in lines:
        for name, value in line.items():
            assert name == "timestamp" or value.keys() == {"num", "mean", "std"}


def test_what_is_measured_is_the_average_at_every_snapshot(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    seen: list[tuple[int, float]] = []

    def measure(student: Any, num_images: int) -> dict[str, float]:
        seen.append((num_images, student.mean.item()))
        return {"distance": 1.25}

    refined = start(affine, gaussian, outdir=tmp_path, measure=measure)
    assert [num_images for num_images, _ in seen] == [0, 128, 256, 320]
    assert seen[0][1] == pytest.approx(-0.4)
    assert seen[-1][1] == refined.mean.item()
    (folder,) = tmp_path.iterdir()
    assert "distance 1.25" in (folder / "log.txt").read_text()


def test_a_run_continued_from_its_folder_equals_the_undisturbed_run(
    affine: Any, gaussian: Any, tmp_path: Path
) -> None:
    whole = start(affine, gaussian, outdir=tmp_path / "a")
    start(affine, gaussian, outdir=tmp_path / "b", kimg=0.16)
    folder = RunFolder.latest(tmp_path / "b")
    assert read_state(folder.states()[-1])["num_images"] == 160
    continued = start(affine, gaussian, folder=folder, resume=True)
    for a, b in zip(whole.parameters(), continued.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(list((tmp_path / "b").iterdir())) == 1


def test_resuming_without_a_state_is_refused(affine: Any, gaussian: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no training state to resume from"):
        start(affine, gaussian, resume=True)
    with pytest.raises(ValueError, match="no training state to resume from"):
        start(affine, gaussian, folder=RunFolder.create(tmp_path, "a"), resume=True)


def test_a_refused_pair_leaves_no_folder(affine: Any, gaussian: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="img_resolution"):
        refine_toys(affine(0.0, 1.0, img_resolution=8), gaussian(0.0, 1.0), kimg=1, outdir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_grid_shows_the_same_samples_for_the_same_seed_in_the_rounding_of_files(
    affine: Any, tmp_path: Path
) -> None:
    student = affine(0.0, 0.6)
    grid = sample_grid(student, 5)
    assert grid.shape == (GRID_ROWS * 4, GRID_COLUMNS * 4)
    assert np.array_equal(grid, sample_grid(student, 5))
    assert not np.array_equal(grid, sample_grid(student, 6))
    torch.manual_seed(5)
    first = student(student.sample_latents(GRID_COLUMNS * GRID_ROWS))[0, 0]
    pixels = (first * 127.5 + 128).clamp(0, 255).to(torch.uint8).detach().numpy()
    assert np.array_equal(grid[:4, :4], pixels)
    save_grid(tmp_path / "fakes.png", student, 5)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "fakes.png")), grid)
