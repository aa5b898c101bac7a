"""Paired comparison: what cancels, what the error bar means, what the verdict says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import metrics
from metrics import Difference, Moments, Statistics
from metrics.evaluate import evaluate
from metrics.sampling import draw_classes


def features_of(student, features, n: int, seed: int = 0) -> np.ndarray:
    images = torch.cat(list(metrics.draw_images(student, n, seed=seed)))
    return features(images)[0].double().numpy()


def distance(x: np.ndarray, reference: Statistics) -> float:
    sigma = np.cov(x, rowvar=False)
    return metrics.frechet_distance(x.mean(0), sigma, reference.mu, reference.sigma)


def test_a_student_compared_with_itself_changes_by_exactly_nothing(toy, features, reference):
    found = metrics.compare(toy(), toy(), reference, features=features, num_images=200)
    assert len(found.differences) == 7
    for difference in found.differences:
        assert (difference.change, difference.low, difference.high) == (0, 0, 0)
        assert difference.verdict == "not resolved"
    assert found.null is not None
    assert found.null.change != 0


def test_values_and_jackknife_equal_direct_recomputation(toy, features, reference):
    before, after = toy(0.2), toy(0.1)
    found = metrics.compare(before, after, reference, features=features, num_images=203, groups=7)
    a, b = features_of(before, features, 203), features_of(after, features, 203)
    got = found["frechet_distance"]
    assert got.before == pytest.approx(distance(a, reference), rel=1e-9)
    assert got.after == pytest.approx(distance(b, reference), rel=1e-9)
    group = np.arange(203) % 7
    changes = [
        distance(b[group != k], reference) - distance(a[group != k], reference) for k in range(7)
    ]
    error = np.sqrt(6 / 7 * np.square(np.subtract(changes, np.mean(changes))).sum())
    assert got.standard_error == pytest.approx(error, rel=1e-6)
    # Student's t of 6 degrees of freedom, 97.5 %: 2.4469 in every table.
    assert got.high - got.change == pytest.approx(2.4469 * error, rel=1e-4)
    assert got.change - got.low == pytest.approx(2.4469 * error, rel=1e-4)


def test_other_metrics_equal_their_definitions(toy, features, reference):
    before, after = toy(0.2), toy(0.1)
    found = metrics.compare(before, after, reference, features=features, num_images=300)
    images = torch.cat(list(metrics.draw_images(after, 300)))
    values, probabilities = features(images)
    precision, recall = metrics.precision_recall(reference.features, values)
    assert found["precision"].after == precision
    assert found["recall"].after == recall
    kernel = metrics.kernel_distance(reference.features, values)
    assert found["kernel_distance"].after == pytest.approx(kernel, rel=1e-9)
    score = metrics.inception_score(probabilities)[0]
    assert found["inception_score"].after == pytest.approx(score, rel=1e-9)


def test_metrics_over_pairs_say_of_how_many_images_they_are(toy, features, reference, monkeypatch):
    monkeypatch.setattr("metrics.evaluate.SAMPLE", 60)
    found = metrics.compare(toy(), toy(0.1), reference, features=features, num_images=200)
    sizes = {d.metric: d.num_images for d in found.differences}
    assert sizes == {
        "frechet_distance": 200,
        "inception_score": 200,
        "kernel_distance": 60,
        "precision": 60,
        "recall": 60,
        "density": 60,
        "coverage": 60,
    }
    values = features_of(toy(0.1), features, 200)[:60]
    assert found["recall"].after == metrics.precision_recall(reference.features, values).recall


def test_metrics_that_the_reference_does_not_allow_are_left_out(toy, features, reference):
    alone = Statistics(reference.mu, reference.sigma)
    found = metrics.compare(
        toy(), toy(0.1), alone, features=lambda images: features(images)[0], num_images=60
    )
    assert [d.metric for d in found.differences] == ["frechet_distance"]
    with pytest.raises(KeyError, match="measured were frechet_distance"):
        found["recall"]


def test_moving_towards_the_reference_is_better_and_away_from_it_worse(toy, features, reference):
    near, far = toy(0.1), toy(0.3)
    options = {"features": features, "num_images": 300, "null": False}
    there = metrics.compare(far, near, reference, **options)
    back = metrics.compare(near, far, reference, **options)
    assert there["frechet_distance"].verdict == "better"
    assert there["precision"].verdict == "better"
    assert back["frechet_distance"].verdict == "worse"
    assert back["frechet_distance"].change == -there["frechet_distance"].change


@pytest.mark.parametrize(
    ("metric", "changes", "verdict"),
    [
        ("frechet_distance", (-3, -1), "better"),
        ("frechet_distance", (1, 3), "worse"),
        ("frechet_distance", (-1, 3), "not resolved"),
        ("frechet_distance", (0, 3), "not resolved"),
        ("inception_score", (1, 3), "better"),
        ("inception_score", (-3, -1), "worse"),
    ],
)
def test_the_verdict_follows_the_side_of_zero_that_the_interval_is_on(metric, changes, verdict):
    assert Difference(metric, 5.0, 6.0, 0.5, *changes, num_images=9).verdict == verdict


@pytest.mark.parametrize("batch", [1, 32, 1000])
def test_the_result_does_not_depend_on_the_batch(toy, features, reference, batch):
    options = {"features": features, "num_images": 210, "null": False}
    want = metrics.compare(toy(0.2), toy(0.1), reference, **options)
    got = metrics.compare(toy(0.2), toy(0.1), reference, batch=batch, **options)
    assert got.differences == want.differences


def test_measure_gives_the_numbers_of_compare_for_the_same_seed(toy, features, reference):
    found = metrics.compare(toy(), toy(), reference, features=features, num_images=120, seed=4)
    one = metrics.measure(toy(), reference, features=features, num_images=120, seed=4)
    assert one.frechet_distance == pytest.approx(found["frechet_distance"].before, rel=1e-9)
    assert one.values["inception_score"] == pytest.approx(found["inception_score"].before, rel=1e-9)
    assert (one.num_images, one.seed, one.space) == (120, 4, "six pixels (toy)")


def test_metrics_asked_for_by_name_equal_their_definitions(toy, features, reference):
    before, after = toy(0.3), toy(0.05)
    names = [name for name, metric in metrics.METRICS.items() if not metric.by_default]
    found = metrics.compare(
        before, after, reference, features=features, num_images=300, metrics=names
    )
    assert [d.metric for d in found.differences] == ["frechet_distance", *names]
    x, real = features_of(after, features, 300), reference.features.astype(np.float64)
    want = {
        "kernel_distance_of_subsets": metrics.kernel_distance_of_subsets(real, x)[0],
        "gaussian_discrepancy": metrics.gaussian_discrepancy(real, x),
        "sliced_distance": metrics.sliced_distance(real[:300], x),
        "authentic_percentage": metrics.authentic_percentage(real, x),
    }
    for name, value in want.items():
        assert found[name].after == pytest.approx(value, rel=1e-9), name
    for name in set(names) - {"authentic_percentage"}:
        assert found[name].verdict == "better", name


class Collapsed(torch.nn.Module):
    """All images alike, but for one in 40 or so where `outliers` are wanted."""

    z_dim, c_dim, img_resolution, img_channels = 8, 0, 8, 1

    def __init__(self, *, outliers: bool) -> None:
        super().__init__()
        self.outliers = outliers

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn(n, self.z_dim, generator=generator)

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        x = torch.full((len(z), 1, 8, 8), 0.3)
        return x + (z[:, :1, None, None] > 2).float() * 0.5 if self.outliers else x


@pytest.mark.parametrize("outliers", [False, True])
def test_a_generator_that_collapsed_has_its_numbers_like_any_other(
    toy, features, reference, outliers
):
    collapsed = Collapsed(outliers=outliers)
    found = metrics.compare(
        toy(), collapsed, reference, features=features, num_images=200, null=False
    )
    x = features_of(collapsed, features, 200)
    group = np.arange(200) % 20
    # Where the group with the only outlier is left out, the covariance is zero but for rounding.
    whole, *parts = (distance(x[group != k], reference) for k in range(-1, 20))
    assert found["frechet_distance"].after == pytest.approx(whole, rel=1e-9)
    assert found["frechet_distance"].verdict == "worse"
    assert found["recall"].after == 0
    side = evaluate(
        metrics.draw_images(collapsed, 200),
        200,
        metrics.open_reference(reference, features),
        groups=20,
        batch=50,
        metrics=["frechet_distance"],
    )
    assert side.values["frechet_distance"][1:] == pytest.approx(parts, rel=1e-6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fid"], "metric 'fid' is unknown; choose all, or some of frechet_distance"),
        ("recall", "metrics is the text 'recall'; give a list"),
        (["recall"], "recall needs features of single real images"),
        (["frechet_infinity"], "frechet_infinity with 5 groups"),
    ],
)
def test_metrics_that_cannot_be_had_are_refused_before_an_image_is_drawn(
    toy, features, reference, names, message
):
    bare = dataclasses.replace(reference, features=None)
    with pytest.raises(ValueError, match=message):
        metrics.compare(
            toy(),
            toy(),
            bare,
            features=features,
            num_images=100,
            groups=5,
            metrics=names,
            progress=lambda done, total: pytest.fail("an image was drawn"),
        )


def test_a_metric_that_needs_more_real_images_than_there_are_is_left_out_or_refused(
    toy, features, reference
):
    few = dataclasses.replace(reference, features=reference.features[:4])
    options = {"features": features, "num_images": 60, "null": False}
    found = metrics.compare(toy(), toy(), few, **options)
    measured = [d.metric for d in found.differences]
    assert "recall" in measured
    assert "coverage" not in measured
    with pytest.raises(ValueError, match=r"coverage needs .*, and .* has 4 of 6"):
        metrics.compare(toy(), toy(), few, metrics=["coverage"], **options)


def test_the_null_row_is_before_with_other_latents(toy, features, reference):
    found = metrics.compare(toy(), toy(0.1), reference, features=features, num_images=100, seed=2)
    assert found.null is not None
    assert found.null.before == found["frechet_distance"].before
    other = distance(features_of(toy(), features, 100, seed=3), reference)
    assert found.null.after == pytest.approx(other, rel=1e-9)


def test_pairing_shrinks_the_error_bar(toy, features, reference):
    options = {"features": features, "num_images": 400}
    found = metrics.compare(toy(0.2), toy(0.19), reference, **options)
    assert found.null is not None
    assert found["frechet_distance"].standard_error < 0.2 * found.null.standard_error


def test_progress_goes_once_through_all_images_and_distances_of_all_sets(toy, features, reference):
    heard: list[tuple[int, int]] = []
    metrics.compare(
        toy(),
        toy(),
        reference,
        features=features,
        num_images=100,
        batch=50,
        groups=10,
        metrics=["recall", "frechet_infinity"],
        progress=lambda done, total: heard.append((done, total)),
    )
    # Of each set two batches, a distance for all and without each group, and the rest; of the two
    # that are compared a line as well for all and without each group.
    of_one = [50, 100, *range(101, 123), 123]
    of_null = [50, 100, *range(101, 112), 112]
    want = [*of_one, *(123 + i for i in of_one), *(246 + i for i in of_null)]
    assert heard == [(done, 358) for done in want]


def test_facts_are_plain_data(toy, features, reference):
    import json

    found = metrics.compare(toy(), toy(0.1), reference, features=features, num_images=60)
    facts = json.loads(json.dumps(found.facts(), allow_nan=False))
    assert facts["space"]["name"] == "six pixels (toy)"
    assert facts["space"]["is_inception"] is False
    assert facts["reference"]["num_images"] == 4000
    assert facts["differences"][0]["num_images"] == 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 39}, "39 images in 20 groups"),
        ({"num_images": 100, "groups": 1}, "at least 2 groups"),
        ({"num_images": 10, "groups": 3}, "20 images in all"),
    ],
)
def test_too_few_images_for_an_error_bar_are_refused(toy, features, reference, change, message):
    with pytest.raises(ValueError, match=message):
        metrics.compare(toy(), toy(), reference, features=features, **change)
    with pytest.raises(ValueError, match="at least 20"):
        metrics.measure(toy(), reference, features=features, num_images=19)


def test_students_of_other_classes_than_each_other_are_refused(toy, features, reference):
    with pytest.raises(ValueError, match="c_dim is 0 before and 3 after"):
        metrics.compare(toy(), toy(c_dim=3), reference, features=features, num_images=40)


def test_features_of_another_size_than_the_reference_are_refused(toy, reference):
    alone = Statistics(reference.mu, reference.sigma)
    with pytest.raises(ValueError, match=r"gives 1 features and .* has 6"):
        metrics.measure(toy(), alone, features=lambda x: x.float().mean((2, 3)), num_images=40)


def coverage(repeats: int, n: int) -> tuple[int, float]:
    """How often the interval covers the true change, and its mean error bar over the true one.

    Before N(0.5, 1.2^2), after N(0.3, 1.1^2) in 4 dimensions, from the same normal numbers; the
    reference is N(0, 1), exactly. True change: 4 ((0.3^2 + 0.1^2) - (0.5^2 + 0.2^2)).
    """
    rng = np.random.default_rng(5)
    reference = Statistics(np.zeros(4), np.eye(4))
    truth = 4 * (0.1 - 0.29)
    covered, changes, errors = 0, [], []
    group = np.arange(n) % 20
    for _ in range(repeats):
        z = rng.standard_normal((n, 4))
        sides = [
            [distance(x[group != k], reference) for k in range(-1, 20)]
            for x in (0.5 + 1.2 * z, 0.3 + 1.1 * z)
        ]
        found = Difference.of("frechet_distance", sides[0], sides[1], num_images=n)
        covered += found.low <= truth <= found.high
        changes.append(found.change)
        errors.append(found.standard_error)
    return covered, float(np.mean(errors) / np.std(changes))


def test_the_error_bar_is_about_the_spread_of_repeated_experiments():
    covered, ratio = coverage(40, 400)
    assert covered >= 34
    assert 0.75 < ratio < 1.35


@pytest.mark.slow
def test_the_interval_covers_the_true_change_in_180_to_199_of_200_experiments():
    covered, ratio = coverage(200, 1000)
    assert 180 <= covered <= 199
    assert 0.85 < ratio < 1.18


def test_moments_are_a_reference(toy, features, reference):
    x = torch.from_numpy(reference.features)
    found = metrics.measure(toy(), Moments.of(x), features=features, num_images=40)
    want = distance(features_of(toy(), features, 40), Statistics.of(Moments.of(x)))
    assert found.frechet_distance == pytest.approx(want, rel=1e-9)


def labelled(reference: Statistics, classes: int) -> Statistics:
    """The reference with classes of its sample, in turn."""
    assert reference.features is not None
    labels = np.arange(len(reference.features)) % classes
    return dataclasses.replace(reference, labels=labels)


def test_the_floor_is_far_below_a_student_that_is_off(toy, features, reference):
    found = metrics.compare(toy(0.2), toy(0.1), reference, features=features, num_images=200)
    assert 0 < found.floor < 0.1 * found["frechet_distance"].after


def test_images_that_came_nearer_and_moved_away_are_told_apart(toy, features, reference):
    found = metrics.compare(toy(0.4), toy(0.0), reference, features=features, num_images=200)
    a, b = (features_of(toy(mean), features, 200) for mean in (0.4, 0.0))
    np.testing.assert_allclose(found.images.drift, np.linalg.norm(b - a, axis=1))
    real = reference.features.astype(np.float64)
    nearest = [np.linalg.norm(x[:, None] - real, axis=2).min(1) for x in (a, b)]
    np.testing.assert_allclose(found.images.gains, nearest[0] - nearest[1], atol=1e-9)
    best = found.images.improved(3)
    assert best == np.argsort(nearest[1] - nearest[0])[:3].tolist()
    facts = found.images.facts()
    assert (facts.get("improved_share") or 0) > 0.9
    back = metrics.compare(toy(0.0), toy(0.4), reference, features=features, num_images=200)
    assert back.images.worsened(3) == best


def test_without_single_features_images_have_a_drift_and_no_direction(toy, features, reference):
    bare = dataclasses.replace(reference, features=None)
    found = metrics.compare(toy(0.4), toy(0.0), bare, features=features, num_images=200)
    assert set(found.images.facts()) == {"num_images", "drift"}
    assert found.images.improved() == found.images.worsened() == []


def test_every_class_with_enough_images_has_its_own_paired_difference(toy, features, reference):
    before, after = toy(0.4, c_dim=2), toy(0.0, c_dim=2)
    real = labelled(reference, 2)
    found = metrics.compare(
        before, after, real, features=features, num_images=200, class_names={1: "one"}
    )
    assert [name for name, _ in found.classes] == ["0", "one"]
    assert sum(d.num_images for _, d in found.classes) == 200
    classes = draw_classes(before, 200)
    assert classes is not None
    values = features_of(before, features, 200)[classes.numpy() == 1]
    assert real.features is not None
    want = metrics.kernel_distance(real.features[real.labels == 1], values)
    assert found.classes[1][1].before == pytest.approx(want, rel=1e-9)
    assert found.classes[1][1].verdict == "better"
    assert [c["name"] for c in found.facts().get("classes", [])] == ["0", "one"]


def test_without_labels_there_is_no_table_of_classes(toy, features, reference):
    pair = toy(0.1, c_dim=2), toy(c_dim=2)
    assert metrics.compare(*pair, reference, features=features, num_images=100).classes == ()
    assert (
        metrics.compare(
            toy(0.1), toy(), labelled(reference, 2), features=features, num_images=100
        ).classes
        == ()
    )


def test_pictures_of_a_comparison_are_of_the_images_that_were_measured(toy, features, reference):
    before, after = toy(0.4), toy(0.0)
    found = metrics.compare(before, after, reference, features=features, num_images=200)
    pictures = metrics.draw_gallery(before, after, found)
    assert {"largest improvements", "latent interpolation"} <= set(pictures)
    assert ("largest regressions" in pictures) == bool(found.images.worsened())
    best = found.images.improved()[0]
    shown = pictures["largest improvements"]
    assert shown.shape == (16, 64)
    for row, student in enumerate((before, after)):
        image = torch.cat(list(metrics.draw_images(student, 200)))[best, 0]
        np.testing.assert_array_equal(shown[8 * row : 8 * row + 8, :8], image.numpy())


def test_a_line_of_the_metrics_file_has_the_originals_keys_and_our_protocol(
    toy, features, reference
):
    found = metrics.measure(toy(), reference, features=features, num_images=100)
    line = metrics.metric_line(found, kimg=2, snapshot="network-snapshot-000002.pkl")
    assert line["results"] == {"frechet_distance": found.frechet_distance}
    assert line["metric"] == "frechet_distance"
    protocol = line["protocol"]
    assert isinstance(protocol, dict)
    assert (protocol["kimg"], protocol["space"]) == (2, features.name)
    keys = "results metric total_time total_time_str num_gpus snapshot_pkl timestamp protocol"
    assert list(line) == keys.split()


@pytest.mark.parametrize(
    ("inception", "num", "name"),
    [
        (True, 50_000, "fid50k_full"),
        (True, 10_000, "frechet_distance"),
        (False, 50_000, "frechet_distance"),
    ],
)
def test_only_50000_images_in_inceptions_features_are_called_fid(inception, num, name):
    found = metrics.Measurement({"frechet_distance": 2.0}, num, 0, "space", 3723.4, inception)
    line = metrics.metric_line(found, kimg=0, snapshot=None)
    assert line["metric"] == name
    assert line["total_time_str"] == "1h 02m 03s"


def test_a_change_towards_few_real_images_has_the_interval_that_repetition_shows() -> None:
    """Two laws equally far from the real one: of 40 repetitions with other real images, about two
    leave zero outside of the interval; over latents alone far more do."""
    generator = torch.Generator().manual_seed(0)

    def draw(n: int, shift: float) -> torch.Tensor:
        x = torch.randn(n, 8, generator=generator, dtype=torch.float64)
        x[:, 0] += shift
        return x

    before, after = draw(2000, 0.5), draw(2000, -0.5)
    changes = [metrics.frechet_change(before, after, draw(100, 0.0)) for _ in range(40)]
    outside = sum(change.low > 0 or change.high < 0 for change in changes)
    assert outside <= 6
    shown = np.std([change.change for change in changes])
    said = np.mean([change.standard_error for change in changes])
    assert said == pytest.approx(shown, rel=0.35)
    exact = metrics.frechet_distance_of_features(after, before)
    same = metrics.frechet_change(before, before, draw(100, 0.0))
    assert (same.change, same.low, same.high) == (0, 0, 0) and exact > 0


def test_a_change_is_refused_where_a_group_would_be_empty(any_shape: None) -> None:
    x = torch.randn(100, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="100 images before, 99 after and 100 of the reference"):
        metrics.frechet_change(x, x[:99], x)
    with pytest.raises(ValueError, match="40 at least of each"):
        metrics.frechet_change(x, x, x[:39])
