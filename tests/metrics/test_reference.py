"""What a student is measured against: files, folders, moments, and what does not fit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import checkpoints
import image_sets
import metrics
from metrics import Classifier, ClassifierFeatures, Moments, Statistics


@pytest.fixture
def folder(tmp_path):
    """A folder of 30 PNG files of 8 x 8, and their pixels."""
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    path = tmp_path / "images"
    path.mkdir()
    for i, image in enumerate(images):
        image_sets.save_png(path / f"{i:04d}.png", image[0])
    return path, torch.from_numpy(images)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_a_folder_of_images_gives_the_statistics_of_its_features(folder, features, batch):
    path, images = folder
    heard = []
    real = metrics.open_reference(
        path, features, batch=batch, progress=lambda *done: heard.append(done)
    )
    values = features(images)[0]
    np.testing.assert_allclose(real.statistics.mu, values.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(real.statistics.sigma, np.cov(values.double().T), rtol=1e-10)
    assert real.statistics.features is not None
    assert np.array_equal(real.statistics.features, values)
    assert (real.statistics.num, real.space, real.source) == (30, features.name, str(path))
    assert heard[-1] == (30, 30)


def test_a_sample_for_pairs_is_spread_evenly_over_a_large_folder(folder, features, monkeypatch):
    path, images = folder
    monkeypatch.setattr("metrics.reference.SAMPLE", 8)
    for batch in (1, 7, 30):
        real = metrics.open_reference(path, features, batch=batch)
        assert real.statistics.features is not None
        assert np.array_equal(real.statistics.features, features(images[::4])[0])


def test_an_npz_of_a_classifier_is_feature_space_and_reference_at_once(tmp_path):
    classifier = Classifier()
    statistics = Statistics.of(Moments.of(torch.randn(100, 64)))
    metrics.save_features(tmp_path / "f.npz", classifier, statistics, name="digits")
    real = metrics.open_reference(tmp_path / "f.npz")
    assert (real.space, real.statistics.num) == ("digits", 100)
    features = ClassifierFeatures(classifier)
    assert getattr(real.extractor, "sha256", None) == features.sha256
    assert real.sha256 == metrics.open_reference(statistics, features).sha256


def test_moments_and_statistics_and_opened_references_are_taken_as_they_are(features, reference):
    real = metrics.open_reference(reference, features)
    assert real.statistics is reference
    assert metrics.open_reference(real) is real
    moments = Moments.of(torch.randn(9, 6))
    assert np.array_equal(metrics.open_reference(moments, features).statistics.mu, moments.mean)


def test_a_plain_function_is_a_feature_space_of_its_own_name(reference):
    def brightness(images):
        return images.float().mean((2, 3))

    one = Moments.of(torch.randn(9, 1))
    assert metrics.open_reference(one, brightness).space == "brightness"


@pytest.mark.parametrize("kind", ["statistics", "folder"])
def test_without_features_the_reference_asks_for_them(tmp_path, folder, reference, kind):
    path = folder[0]
    if kind == "statistics":
        path = tmp_path / "s.npz"
        metrics.save_statistics(path, reference)
    with pytest.raises(ValueError, match="name the features"):
        metrics.open_reference(path)


def test_statistics_of_another_space_or_size_are_refused(features):
    four = Statistics(np.zeros(4), np.eye(4))
    with pytest.raises(
        ValueError, match=r"statistics of 4 features, and 'six pixels \(toy\)' has 6"
    ):
        metrics.open_reference(four, features)
    other = Statistics(np.zeros(6), np.eye(6), space="Inception")
    with pytest.raises(ValueError, match=r"'Inception', and the features are 'six pixels \(toy\)'"):
        metrics.open_reference(other, features)


def test_paths_that_are_no_reference_are_refused_by_name(tmp_path, features):
    with pytest.raises(FileNotFoundError, match=r"none.npz: no such file"):
        metrics.open_reference(tmp_path / "none.npz", features)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"a.txt: not a reference"):
        metrics.open_reference(tmp_path / "a.txt", features)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.full((30, 6), torch.nan), "NaN or infinite"),
        (torch.zeros(29, 6), r"shape \(29, 6\) for 30 images"),
        (torch.zeros(30, 2, 3), r"shape \(30, 2, 3\)"),
    ],
)
def test_an_extractor_that_gives_no_features_is_refused(folder, values, message):
    with pytest.raises(ValueError, match=message):
        metrics.open_reference(folder[0], lambda images: values)


class Counting:
    """The mean level of each image; counts the images that it was shown."""

    name = "mean level"
    dim = 1
    sha256 = "ab" * 32
    seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return images.flatten(1).float().mean(1, keepdim=True), None


def test_statistics_of_the_same_images_are_found_again_wherever_they_lie(tmp_path, folder):
    (path, _), features, cache = folder, Counting(), tmp_path / "cache"
    first = metrics.open_reference(path, features, cache=cache)
    seen = features.seen
    moved = path.rename(tmp_path / "moved")
    again = metrics.open_reference(moved, features, cache=cache)
    assert features.seen == seen
    np.testing.assert_array_equal(again.statistics.mu, first.statistics.mu)
    np.testing.assert_array_equal(again.statistics.features, first.statistics.features)
    next(moved.rglob("*.png")).unlink()
    metrics.open_reference(moved, features, cache=cache)
    assert features.seen == 2 * seen - 1
    features.sha256 = "cd" * 32
    metrics.open_reference(moved, features, cache=cache)
    assert features.seen == 3 * seen - 2


def test_classes_of_the_sample_are_those_of_the_data_set(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    labels = np.arange(30) % 3
    image_sets.write_zip(tmp_path / "a.zip", images, labels)
    found = metrics.open_reference(tmp_path / "a.zip", Counting()).statistics
    np.testing.assert_array_equal(found.labels, labels)
    metrics.save_statistics(tmp_path / "a.npz", found)
    np.testing.assert_array_equal(metrics.load_statistics(tmp_path / "a.npz").labels, labels)


def test_a_pickle_of_edm2_gives_the_statistics_of_the_space_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    held = {
        key: {"mu": rng.standard_normal(3), "sigma": np.eye(3) * (1 + i)}
        for i, key in enumerate(("fid", "fd_dinov2"))
    }
    (tmp_path / "refs.pkl").write_bytes(pickle.dumps({**held, "num_images": 5000}))

    def inception(images):
        return images[:, 0, 0, :3].float()

    inception.name = "Inception 2015 (tf1 resize)"
    found = metrics.open_reference(tmp_path / "refs.pkl", inception)
    np.testing.assert_array_equal(found.statistics.mu, held["fid"]["mu"])
    np.testing.assert_array_equal(found.statistics.sigma, held["fid"]["sigma"])
    assert found.statistics.num == 5000
    with pytest.raises(ValueError, match=r"no statistics in the feature space 'mean level'"):
        metrics.open_reference(tmp_path / "refs.pkl", Counting())


def test_a_pickle_that_would_run_something_is_no_reference(tmp_path):
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00lsq\x00\x85R.")
    with pytest.raises(ValueError, match="nothing in it was run"):
        metrics.open_reference(tmp_path / "bad.pkl", Counting())


def shared_list(width: int, levels: int) -> list:
    """Lists of which all at one level are one: bytes in a file, gigabytes as an array."""
    value: list = [0.0] * width
    for _ in range(levels):
        value = [value] * width
    return value


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"mu": shared_list(300, 3), "sigma": np.eye(2)}, "mu is a list of 300 items"),
        ({"mu": np.zeros(2), "sigma": "\x1b[31m"}, r"sigma is '\\x1b\[31m'; statistics are"),
        ({"mu": torch.zeros(2), "sigma": torch.eye(2)}, "statistics of 2 features, and"),
    ],
)
def test_statistics_of_a_pickle_are_arrays_of_the_spaces_size(tmp_path, held, message):
    class Inception:
        name, dim = "Inception 2015 (tf1 resize)", 3

        def __call__(self, images):
            raise AssertionError("no image is measured")

    checkpoints.write({"fid": held, "num_images": 5}, tmp_path / "refs.pkl")
    with pytest.raises(ValueError, match=message):
        metrics.open_reference(tmp_path / "refs.pkl", Inception())


def test_tensors_of_a_pickle_are_statistics_whatever_their_type(tmp_path):
    held = {"mu": torch.zeros(2, dtype=torch.bfloat16), "sigma": torch.eye(2, dtype=torch.bfloat16)}
    checkpoints.write({"fid": held, "num_images": 5}, tmp_path / "refs.pkl")

    def inception(images):
        return images

    inception.name = "Inception 2015 (tf1 resize)"
    found = metrics.open_reference(tmp_path / "refs.pkl", inception)
    assert found.statistics.num == 5 and np.array_equal(found.statistics.sigma, np.eye(2))


def test_a_wrong_size_is_noticed_before_the_root_of_the_covariance(tmp_path, features, monkeypatch):
    def refuse(sigma):
        raise AssertionError("a root was taken")

    monkeypatch.setattr("metrics.statistics.covariance_root", refuse)
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match="statistics of 3 features, and the feature space has 6"):
        metrics.open_reference(tmp_path / "a.npz", features)


def test_an_npz_that_unpacks_to_much_more_than_its_size_is_refused(tmp_path, features):
    np.savez_compressed(tmp_path / "a.npz", mu=np.zeros(3000), sigma=np.zeros((3000, 3000)))
    with pytest.raises(ValueError, match=r"sigma\.npy.: \d+ bytes that unpack to 72000128"):
        metrics.open_reference(tmp_path / "a.npz", features)


def written(path, **changes):
    """A file of statistics of a hundred images' six features, with these arrays changed."""
    x = np.random.default_rng(0).normal(size=(100, 6))
    arrays = {"mu": x.mean(0), "sigma": np.cov(x.T), "n": np.array(100), "features": x, **changes}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_too_few_single_images_are_refused_when_a_reference_is_opened(tmp_path, features, count):
    path = written(tmp_path / "few.npz", features=np.ones((count, 6)))
    with pytest.raises(ValueError, match=rf"features of {count} single images, .* need 4; give"):
        metrics.open_reference(path, features)


def test_a_folder_of_too_few_images_is_refused_when_it_is_opened(tmp_path, features):
    for i in range(3):
        image_sets.save_png(tmp_path / f"{i}.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="3 images; a reference needs at least 4"):
        metrics.open_reference(tmp_path, features)


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.float16, np.longdouble])
def test_numbers_of_another_machine_are_measured_as_ours(tmp_path, features, dtype):
    plain = metrics.open_reference(written(tmp_path / "plain.npz"), features)
    x = np.random.default_rng(0).normal(size=(100, 6))
    other = metrics.open_reference(written(tmp_path / "o.npz", features=x.astype(dtype)), features)
    assert other.rows is not None and plain.rows is not None
    torch.testing.assert_close(other.rows, plain.rows, rtol=1e-3, atol=1e-3)
    assert other.statistics.features.dtype.isnative


@pytest.mark.parametrize(
    ("name", "value"),
    [("mu", np.full(6, 1e200)), ("sigma", 1e300 * np.eye(6)), ("features", np.full((9, 6), 1e99))],
)
def test_numbers_whose_distances_overflow_are_refused(tmp_path, features, name, value):
    with pytest.raises(ValueError, match=f"'{name}' has numbers beyond .*; scale the features"):
        metrics.open_reference(written(tmp_path / "far.npz", **{name: value}), features)


def test_a_batch_of_guided_diffusion_is_the_images_that_it_holds(folder, features, tmp_path):
    path, images = folder
    rows = images.numpy().transpose(0, 2, 3, 1)
    np.savez(tmp_path / "samples.npz", rows, np.zeros(len(rows), np.int64))
    real = metrics.open_reference(tmp_path / "samples.npz", features, batch=7)
    expected = metrics.open_reference(path, features)
    assert real.sha256 == expected.sha256 or np.allclose(
        real.statistics.sigma, expected.statistics.sigma, rtol=1e-12
    )
    assert real.rows is not None and expected.rows is not None
    assert torch.equal(real.rows, expected.rows)
    with pytest.raises(ValueError, match="holds images, so name their --features"):
        metrics.open_reference(tmp_path / "samples.npz")


def test_statistics_of_other_programs_are_the_same_by_other_names(folder, features, tmp_path):
    statistics = metrics.open_reference(folder[0], features).statistics
    mu, sigma = statistics.mu, statistics.sigma
    np.savez(tmp_path / "ttur.npz", m=mu, s=sigma)
    np.savez(tmp_path / "labels.npz", mu=mu, sigma=sigma, labels=np.zeros((3, 2)))
    torch.save({"mu": torch.from_numpy(mu), "sigma": torch.from_numpy(sigma)}, tmp_path / "a.pt")
    for name in ("ttur.npz", "labels.npz", "a.pt"):
        read = metrics.open_reference(tmp_path / name, features).statistics
        assert np.array_equal(read.mu, mu) and np.array_equal(read.sigma, sigma)
        assert read.labels is None
    torch.save({"mu": 1.0, "sigma": torch.from_numpy(sigma)}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"b\.pt: mu is 1\.0; statistics are NumPy arrays"):
        metrics.open_reference(tmp_path / "b.pt", features)
