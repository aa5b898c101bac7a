"""Our numbers beside those of torch-fidelity, where it is installed: an independent implementation.

Only these tests and benchmarks/metrics.py know it; nothing of ours needs it.
"""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import metrics
from metrics import inception, resize


@pytest.fixture(scope="module")
def fidelity() -> Callable[[str], Any]:
    """Module of a name of torch-fidelity's."""
    # Its torchvision, which none of this needs, asks for operators that it only has beside the
    # torch it was built for.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module("torch_fidelity")
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"torch-fidelity with its torchvision is not installed: {error}")
    kept.append(library)
    return lambda name: importlib.import_module(f"torch_fidelity.{name}")


kept: list[torch.library.Library] = []


def features(n: int, d: int, seed: int) -> torch.Tensor:
    """Features float64 [n, d] of a spectrum that falls, not round and not at zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x * torch.logspace(0, -1, d, dtype=torch.float64) + 0.1 * seed


# With fewer rows than columns it is theirs that is not exact: eigenvalues of a singular product.
@pytest.mark.parametrize(("n", "tolerance"), [(400, 1e-9), (40, 1e-6)])
def test_frechet_distance_is_theirs_on_the_same_features(fidelity, n, tolerance):
    module = fidelity("metric_fid")
    x, y = features(n, 64, 1), features(n, 64, 2)
    statistics = [module.fid_features_to_statistics(f) for f in (x, y)]
    want = module.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    moments = [metrics.Moments.of(f) for f in (x, y)]
    a, b = ((m.mean, m.covariance()) for m in moments)
    assert metrics.frechet_distance(*a, *b) == pytest.approx(want, rel=tolerance)
    assert metrics.frechet_distance_of_features(x, y) == pytest.approx(want, rel=tolerance)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_distance_is_pytorch_fids_on_the_same_features(fidelity):
    theirs = pytest.importorskip("pytorch_fid.fid_score", reason="pytorch-fid is not installed")
    x, y = features(400, 64, 1).numpy(), features(400, 64, 2).numpy()
    statistics = [part for f in (x, y) for part in (f.mean(0), np.cov(f, rowvar=False))]
    want = theirs.calculate_frechet_distance(*statistics)
    assert metrics.frechet_distance(*statistics) == pytest.approx(want, rel=1e-9)


def test_inception_score_is_theirs_in_their_order(fidelity):
    logits = 3 * features(503, 20, 1)
    want = fidelity("metric_isc").isc_features_to_metric(logits)
    order = np.random.RandomState(2020).permutation(503)
    mean, std = metrics.inception_score(logits[order].softmax(1))
    assert mean == pytest.approx(want["inception_score_mean"], rel=1e-9)
    assert std == pytest.approx(want["inception_score_std"], rel=1e-9)


def test_kernel_distance_is_theirs_of_one_subset_of_all(fidelity):
    x, y = features(300, 32, 1), features(300, 32, 2)
    found = fidelity("metric_kid").kid_features_to_metric(
        x, y, kid_subsets=1, kid_subset_size=300, verbose=False
    )
    want = found["kernel_inception_distance_mean"]
    # Theirs is in float32 inside.
    assert metrics.kernel_distance(x, y) == pytest.approx(want, rel=1e-4)


def test_precision_and_recall_are_theirs_exactly(fidelity):
    fake, real = features(250, 8, 1), features(300, 8, 2)
    want = fidelity("metric_prc").prc_features_to_metric(fake, real, verbose=False)
    found = metrics.precision_recall(real, fake, k=3)
    # Shares of 250 and of 300, of which theirs are float32.
    assert found == pytest.approx((want["precision"], want["recall"]), rel=1e-6)


@pytest.mark.parametrize("size", [7, 32, 256, 400])
def test_tensorflows_resize_is_theirs(fidelity, size):
    x = torch.randint(0, 256, [2, 3, size, size], dtype=torch.uint8)
    module = fidelity("interpolate_compat_tensorflow")
    want = module.interpolate_bilinear_2d_like_tensorflow1x(
        x.float(), size=(299, 299), align_corners=False
    )
    torch.testing.assert_close(resize.resize_tf1(x, 299), want, rtol=0, atol=1e-4)


def test_inceptions_features_are_theirs_with_the_same_weights(fidelity, tmp_path):
    weights = {"fc.bias": torch.zeros(1008)}
    for name, shape in inception.parameter_names():
        scale = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        weights[name] = scale * torch.randn(shape)
        if name.endswith(("running_var", "bn.weight")):
            weights[name] = 0.7 + 0.6 * torch.rand(shape)
        if name.endswith("bn.weight"):
            weights[name.replace("weight", "num_batches_tracked")] = torch.tensor(0)
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    theirs = fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3(
        "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )
    x = torch.randint(0, 256, [4, 3, 32, 32], dtype=torch.uint8)
    pool, logits = theirs(x)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    got, probabilities = metrics.inception_features(path, sha256=digest)(x)
    torch.testing.assert_close(got, pool, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probabilities, logits.softmax(1), rtol=1e-4, atol=1e-5)
