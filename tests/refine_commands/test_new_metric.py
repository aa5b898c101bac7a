"""A metric is one file and one row: a toy that no other file knows is compared and reported."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

import metrics
import students

TOY = '''
"""How far the means of two samples are apart."""

from metrics.distances.metric import Metric, of_rows, set_by_set


def mean_shift(real, fake):
    return (real.mean(0) - fake.mean(0)).norm().item()


METRIC = Metric(
    title="Shift of means",
    help="how far the means of both sets are apart",
    unit="features",
    lower_is_better=True,
    needs="rows",
    values=of_rows(set_by_set(mean_shift)),
)
'''


@pytest.fixture
def mean_shift(tmp_path, monkeypatch) -> None:
    """The toy's file, and its row for the time of a test."""
    (tmp_path / "mean_shift.py").write_text(TOY)
    spec = importlib.util.spec_from_file_location("mean_shift", tmp_path / "mean_shift.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(metrics.METRICS, "mean_shift", module.METRIC)


def test_compare_measures_it_whole_and_with_an_interval(mean_shift, files):
    student = students.load(files / "gan.pkl")
    reference = metrics.open_reference(files / "features.npz")
    found = metrics.compare(
        student, student, reference, num_images=100, groups=5, metrics=["mean_shift"], null=False
    )
    assert [d.metric for d in found.differences] == ["frechet_distance", "mean_shift"]
    images = torch.cat(list(metrics.draw_images(student, 100)))
    fake = metrics.load_features(files / "features.npz")(images)[0].double().numpy()
    real = reference.statistics.features
    assert real is not None
    shift = np.linalg.norm(real.mean(0) - fake.mean(0))
    assert found["mean_shift"].before == pytest.approx(shift, rel=1e-6)
    assert found["mean_shift"].verdict == "not resolved"
    assert found["mean_shift"].facts()["lower_is_better"]


def test_the_report_shows_it(mean_shift, files, refine_py, tmp_path):
    options = ["--before", files / "gan.pkl", "--after", files / "gan.pkl", "--num", 100]
    options += ["--reference", files / "features.npz", "--outdir", tmp_path / "report"]
    done = refine_py("report", *options, "--metrics", "mean_shift")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "report/report.json").read_text())
    assert facts["comparison"]["differences"][1]["metric"] == "mean_shift"
    for name in ("report.md", "report.html"):
        assert "Shift of means" in (tmp_path / "report" / name).read_text()
    assert "mean_shift" in refine_py("report", *options, "--metrics", "fid").stderr


def test_it_is_refused_where_the_reference_does_not_allow_it(mean_shift, files):
    student = students.load(files / "gan.pkl")
    bare = metrics.Statistics(np.zeros(6), np.eye(6))
    with pytest.raises(ValueError, match="mean_shift needs features of single real images"):
        metrics.compare(
            student,
            student,
            bare,
            num_images=100,
            features=metrics.load_features(files / "features.npz"),
            metrics=["mean_shift"],
        )
