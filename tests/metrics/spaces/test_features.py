"""The small classifier as feature space, and the file that carries it with its statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import metrics
from metrics import Classifier, ClassifierFeatures, Moments, Statistics


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(256, [6, 1, 32, 32], dtype=torch.uint8)


def saved(path, classifier: Classifier, name: str = "digits (64-d)") -> ClassifierFeatures:
    moments = Moments.of(torch.randn(100, classifier.num_features))
    metrics.save_features(path, classifier, Statistics.of(moments), name=name)
    return metrics.load_features(path)


def test_float_images_become_uint8_by_rounding_as_stylegan_does():
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    assert torch.equal(metrics.to_uint8(levels / 127.5 - 1).long(), levels)
    # Truncation of (x + 1) * 127.5 would give 41 for the last.
    image = torch.tensor([-9.0, 0.0, 9.0, 41.7 / 127.5 - 1]).reshape(1, 1, 2, 2)
    assert metrics.to_uint8(image).flatten().tolist() == [0, 128, 255, 42]


def test_features_are_what_the_arrays_of_the_file_say_layer_by_layer(tmp_path, images):
    loaded = saved(tmp_path / "f.npz", Classifier())
    w = {k: torch.from_numpy(v) for k, v in np.load(tmp_path / "f.npz").items() if k[0] == "c"}
    x = images.float() / 127.5 - 1
    for i in (0, 2, 4):
        x = F.relu(F.conv2d(x, w[f"c.{i}.weight"], w[f"c.{i}.bias"], stride=2, padding=1))
    x = F.relu(F.linear(x.flatten(1), w["c.7.weight"], w["c.7.bias"]))
    features, probabilities = loaded(images)
    torch.testing.assert_close(features, x)
    assert probabilities is not None
    logits = F.linear(x, w["c.9.weight"], w["c.9.bias"])
    torch.testing.assert_close(probabilities, logits.softmax(1))


def test_a_classifier_comes_back_from_its_file_with_its_name_and_hash(tmp_path, images):
    classifier = Classifier()
    made, loaded = ClassifierFeatures(classifier), saved(tmp_path / "f.npz", classifier)
    assert (loaded.name, loaded.dim) == ("digits (64-d)", 64)
    assert loaded.sha256 == made.sha256 != ClassifierFeatures(Classifier()).sha256
    assert metrics.load_statistics(tmp_path / "f.npz").space == "digits (64-d)"
    for a, b in zip(made(images), loaded(images), strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "sizes",
    [
        {"img_channels": 3, "img_resolution": 64},
        {"widths": (2, 3, 5), "num_features": 7, "num_classes": 4},
        {"num_classes": None},
        {"img_resolution": 28},
    ],
)
def test_every_size_comes_from_the_shapes_of_the_arrays(tmp_path, sizes):
    made = Classifier(**sizes)
    loaded = saved(tmp_path / "f.npz", made)
    size = sizes.get("img_resolution", 32)
    x = torch.randint(256, [2, sizes.get("img_channels", 1), size, size], dtype=torch.uint8)
    features, probabilities = loaded(x)
    assert torch.equal(features, ClassifierFeatures(made)(x)[0])
    assert (probabilities is None) == ("num_classes" in sizes and sizes["num_classes"] is None)


def test_a_file_without_class_layer_and_name_is_a_feature_space_with_a_name_of_its_hash(tmp_path):
    arrays = {k: v.numpy() for k, v in Classifier(num_classes=None).state_dict().items()}
    np.savez(tmp_path / "f.npz", mu=np.zeros(64), sigma=np.eye(64), **arrays)
    loaded = metrics.load_features(tmp_path / "f.npz")
    assert loaded.name == f"classifier {loaded.sha256[:8]} (64-d)"
    assert metrics.load_statistics(tmp_path / "f.npz").num is None


def test_a_classifier_trains_through_its_logits_until_it_is_an_extractor():
    network = Classifier(widths=(4, 4, 4), num_features=8)
    logits = network(torch.randn(4, 1, 32, 32))[1]
    assert logits is not None
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    ClassifierFeatures(network)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 1, 32, 32), "uint8"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "3 x 32 x 32.* need 1 x 32 x 32"),
        (torch.zeros(2, 1, 64, 64, dtype=torch.uint8), "1 x 64 x 64.* need 1 x 32 x 32"),
        (torch.zeros(2, 1, 32, 64, dtype=torch.uint8), "1 x 32 x 64"),
        (torch.zeros(32, 32, dtype=torch.uint8), "uint8"),
    ],
)
def test_images_the_features_were_not_made_for_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        ClassifierFeatures(Classifier())(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c.4.bias": None}, r"'c.4.bias' is missing"),
        ({"c.11.weight": np.zeros((3, 3))}, r"'c.11.weight' is unknown"),
        ({"c.9.bias": None}, r"'c.9.bias' is missing"),
        ({"c.2.weight": np.zeros((32, 16, 5, 5))}, r"'c.2' has weight \(32, 16, 5, 5\)"),
        (
            {"c.7.weight": np.zeros((64, 1000), np.float32)},
            r"'c.7' takes 1000 inputs and gets 1024",
        ),
        ({"c.9.weight": np.zeros((10, 63), np.float32)}, r"'c.9' takes 63 inputs and gets 64"),
        ({"c.0.bias": np.full(16, np.nan)}, r"'c.0' must hold finite"),
        ({"c.0.bias": np.zeros(16, int)}, r"'c.0' must hold finite floating"),
        ({"name": np.arange(3)}, "one piece of text"),
    ],
)
def test_arrays_that_make_no_classifier_are_refused_in_one_line(tmp_path, change, message):
    arrays = {k: v.numpy() for k, v in Classifier().state_dict().items()} | change
    np.savez(tmp_path / "f.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(ValueError, match=message) as caught:
        metrics.load_features(tmp_path / "f.npz")
    assert "f.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
