"""`refine.py report`: one page of a comparison, and one clear line for what cannot be compared."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import image_sets
import metrics
from metrics.spaces.choice import SPACES


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("REFINE_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def compared(files, refine_py, tmp_path):
    """Call `report` on a network and itself, with other options."""

    def call(**changes: object):
        options = {
            "before": files / "gan.pkl",
            "after": files / "gan.pkl",
            "reference": files / "features.npz",
            "outdir": tmp_path / "report",
            "num": 100,
        } | changes
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return refine_py("report", *flags)

    return call


def pictures(path: Path, *, count: int = 30, labels: np.ndarray | None = None) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 16, 16), dtype=np.uint8)
    image_sets.write_zip(path, images, labels)
    return path


def test_a_network_beside_itself_is_a_report_of_no_difference(compared, tmp_path):
    done = compared()
    assert done.exit_code == 0, done.output
    assert "No difference resolved." in done.output
    facts = json.loads((tmp_path / "report/report.json").read_text())
    assert {d["change"] for d in facts["comparison"]["differences"]} == {0}
    assert facts["settings"]["num"] == 100
    assert len(facts["provenance"]["before_sha256"]) == 64
    for name in ("report.md", "report.html"):
        assert "test space" in (tmp_path / "report" / name).read_text()


def test_help_names_every_feature_space(refine_py):
    # Lines may break after a hyphen.
    text = re.sub(r"-\s+", "-", refine_py("report", "--help").stdout)
    words = set(re.split(r"[\s,]+", text))
    assert set(SPACES) <= words


def test_metrics_are_chosen_by_name(compared, tmp_path):
    done = compared(metrics="recall, authentic_percentage")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "report/report.json").read_text())
    measured = [d["metric"] for d in facts["comparison"]["differences"]]
    assert measured == ["frechet_distance", "recall", "authentic_percentage"]
    assert "Authentic images, %" in (tmp_path / "report/report.md").read_text()


def test_a_zip_of_images_is_a_reference_measured_once(compared, files, tmp_path, monkeypatch):
    options = {
        "reference": pictures(tmp_path / "real.zip"),
        "features": files / "features.npz",
    }
    assert compared(**options).exit_code == 0
    kept = list((tmp_path / "cache").rglob("statistics-*.npz"))
    assert len(kept) == 1
    monkeypatch.setattr("metrics.reference._measure_images", lambda *_: pytest.fail("again"))
    assert compared(**options).exit_code == 0


def refused(done, *parts: str) -> None:
    """Exit code 2 and one line that has all parts."""
    assert done.exit_code == 2, done.output
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert part in lines[0]


def broken_zip(folder: Path) -> Path:
    path = pictures(folder / "real.zip")
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["00000/img00000012.png"] = entries["00000/img00000012.png"][:90]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def mixed_zip(folder: Path) -> Path:
    path = pictures(folder / "real.zip")
    image_sets.save_png(folder / "large.png", np.zeros((20, 16), dtype=np.uint8))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("z-last.png", (folder / "large.png").read_bytes())
    return path


def unlabelled_zip(folder: Path) -> Path:
    path = pictures(folder / "real.zip")
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    del entries["dataset.json"]
    table = json.dumps({"labels": [["00000/img00000000.png", 1], ["gone.png", 2]]})
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (entries | {"dataset.json": table.encode()}).items():
            archive.writestr(name, content)
    return path


def torn_zip(folder: Path) -> Path:
    """A zip that lost an image of which dataset.json tells."""
    path = pictures(folder / "real.zip", labels=np.arange(30) % 3)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    del entries["00000/img00000012.png"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def pickled_npz(folder: Path) -> Path:
    np.savez(folder / "real.npz", mu=np.array([{"a": 1}], dtype=object), sigma=np.eye(6))
    return folder / "real.npz"


def small_set(folder: Path) -> Path:
    return pictures(folder / "real.zip", count=1)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (broken_zip, ["img00000012.png: not a usable image"]),
        (mixed_zip, ["z-last.png: 16 x 20", "00000/img00000000.png is 16 x 16", "one size"]),
        (unlabelled_zip, ["no label for 00000/img00000001.png (29 of 30 images lack one)"]),
        (torn_zip, ["labels for 1 images that are not there, the first 00000/img00000012.png"]),
        (pickled_npz, ["array 'mu' holds pickled Python objects"]),
        (small_set, ["1 images; a reference needs at least 4"]),
    ],
)
def test_a_reference_that_cannot_be_used_is_one_line(compared, files, tmp_path, make, parts):
    path = make(tmp_path)
    refused(compared(reference=path, features=files / "features.npz"), path.name, *parts)
    assert not (tmp_path / "report").exists()


def test_weights_with_another_hash_are_refused_before_they_are_read(compared, tmp_path):
    weights = tmp_path / "inception.pth"
    torch.save({"a": torch.zeros(3)}, weights)
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    done = compared(reference=pictures(tmp_path / "real.zip"), features=f"inception={weights}")
    refused(done, "inception.pth", f"SHA-256 is {found[:16]}", "6726825d", "download the file")


def test_images_for_other_features_and_students_of_other_classes_are_refused(
    compared, files, tmp_path
):
    refused(compared(after=files / "large.pkl"), "c_dim is 0 before and 2 after")
    both = {"before": files / "large.pkl", "after": files / "large.pkl"}
    refused(compared(**both), "images are 3 x 32 x 32", "need 1 x 16 x 16")
    np.savez(tmp_path / "edm.npz", mu=np.zeros(9), sigma=np.eye(9))
    other = {"reference": tmp_path / "edm.npz", "features": files / "features.npz"}
    refused(compared(**other), "statistics of 9 features", "has 6")


def test_metrics_and_counts_that_cannot_be_had_are_refused(compared, files, tmp_path):
    refused(compared(metrics="fid"), "metric 'fid' is unknown", "frechet_distance")
    extractor = metrics.load_features(files / "features.npz")
    gaussian = metrics.Statistics(np.zeros(6), np.eye(6), space=extractor.name)
    metrics.save_statistics(tmp_path / "bare.npz", gaussian)
    options = {"reference": tmp_path / "bare.npz", "features": files / "features.npz"}
    refused(compared(**options, metrics="recall"), "recall needs features of single real images")
    assert compared(num=99).exit_code == 2


def folder_of(path: Path, *, shift: int = 0, count: int = 120, ending: str = ".png") -> Path:
    path.mkdir()
    images = np.random.default_rng(0).integers(0, 200, (count, 16, 16), dtype=np.uint8)
    for i, image in enumerate(images):
        image_sets.save_png(path / f"{i:03d}.png", image + shift)
    return path


def test_two_folders_of_images_are_compared_pair_by_pair(compared, files, tmp_path):
    sides = {"before": folder_of(tmp_path / "a"), "after": folder_of(tmp_path / "b", shift=40)}
    done = compared(**sides, num=50000)
    assert done.exit_code == 0, done.output
    assert "120 images of each side are measured, as before has 120, after has 120" in done.output
    facts = json.loads((tmp_path / "report/report.json").read_text())
    assert facts["comparison"]["pairing"] == "the same file names"
    assert facts["comparison"]["num_images"] == facts["settings"]["num"] == 120
    page = (tmp_path / "report/report.md").read_text()
    assert "paired differences: both sides use the same file names." in page
    mixed = compared(after=sides["after"], num=100)
    assert mixed.exit_code == 0, mixed.output
    assert "have nothing in common" in (tmp_path / "report/report.html").read_text()


def test_one_folder_against_another_is_a_distance_alone(compared, files, refine_py, tmp_path):
    fakes, reals = folder_of(tmp_path / "fakes", shift=40), folder_of(tmp_path / "reals")
    flags = ("--reference", reals, "--features", files / "features.npz", "--outdir", tmp_path / "o")
    done = refine_py("report", "--before", fakes, *flags)
    assert done.exit_code == 0, done.output
    measured = json.loads((tmp_path / "o/measured.json").read_text())["measured"]
    extractor = metrics.load_features(files / "features.npz")
    sides = []
    for folder in (fakes, reals):
        images = np.stack([image for image, _ in image_sets.ImageFolder(folder)])
        sides.append(extractor(torch.from_numpy(images))[0].double())
    expected = metrics.frechet_distance_of_features(*sides)
    assert measured["frechet_distance"] == pytest.approx(expected, rel=1e-8)
    assert f"{expected:.6g}" in done.stdout
    assert "This is not FID" in done.stdout
    same = refine_py("report", "--before", reals, *flags)
    assert same.exit_code == 0
    measured = json.loads((tmp_path / "o/measured.json").read_text())["measured"]
    assert abs(measured["frechet_distance"]) < 1e-6 * expected
    refused(refine_py("report", "--before", fakes, *flags, "--metrics", "recall"), "give --after")
