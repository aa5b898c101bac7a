"""Our numbers beside those of torch-fidelity and others, where they are installed.

Only these tests and benchmarks/metrics.py know them; nothing of ours needs them.
"""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metrics
from benchmarks.metrics import stand_in_for_torchvision
from metrics.spaces import inception, resize


@pytest.fixture(scope="module")
def fidelity() -> Callable[[str], Any]:
    """Module of a name of torch-fidelity's."""
    library = stand_in_for_torchvision()
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
@pytest.mark.parametrize(
    ("module", "name", "array"),
    [
        ("pytorch_fid.fid_score", "calculate_frechet_distance", np.asarray),
        ("cleanfid.fid", "frechet_distance", np.asarray),
        ("torchmetrics.image.fid", "_compute_fid", torch.from_numpy),
    ],
)
def test_frechet_distance_is_that_of_others_on_the_same_features(fidelity, module, name, array):
    theirs = pytest.importorskip(module, reason=f"{module} is not installed")
    x, y = features(400, 64, 1).numpy(), features(400, 64, 2).numpy()
    statistics = [part for f in (x, y) for part in (f.mean(0), np.cov(f, rowvar=False))]
    want = float(getattr(theirs, name)(*map(array, statistics)))
    assert metrics.frechet_distance(*statistics) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("k", [3, 5])
def test_precision_recall_density_and_coverage_are_prdcs(k):
    prdc = pytest.importorskip("prdc", reason="prdc is not installed")
    real, fake = features(800, 16, 1), features(700, 16, 2)
    want = prdc.compute_prdc(real.numpy(), fake.numpy(), k)
    found = {
        **metrics.precision_recall(real, fake, k=k)._asdict(),
        **metrics.density_coverage(real, fake, k=k)._asdict(),
    }
    # Counts of images: density alone is a sum of shares, and rounds.
    assert found == pytest.approx(want, rel=1e-14)


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
    assert metrics.kernel_distance(x, y) == pytest.approx(want, rel=1e-9)
    theirs = pytest.importorskip("torchmetrics.image.kid", reason="torchmetrics is not installed")
    assert metrics.kernel_distance(x, y) == pytest.approx(theirs.poly_mmd(x, y).item(), rel=1e-9)


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


@pytest.mark.parametrize("size", [32, 400])
def test_the_clean_resize_is_clean_fids_to_the_last_bit(fidelity, size):
    theirs = pytest.importorskip("cleanfid.resize", reason="clean-fid is not installed")
    x = torch.randint(0, 256, [2, 3, size, size], dtype=torch.uint8)
    want = [theirs.build_resizer("clean")(image.permute(1, 2, 0).numpy()) for image in x]
    got = resize.resize_clean(x, 299).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(got, np.stack(want))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """File of random weights in the public file's names."""
    weights = {"fc.bias": torch.zeros(1008)}
    for name, shape in inception.parameter_names():
        scale = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        weights[name] = scale * torch.randn(shape)
        if name.endswith(("running_var", "bn.weight")):
            weights[name] = 0.7 + 0.6 * torch.rand(shape)
        if name.endswith("bn.weight"):
            weights[name.replace("weight", "num_batches_tracked")] = torch.tensor(0)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(weights, path)
    return path


def test_inceptions_features_are_theirs_with_the_same_weights(fidelity, weights):
    theirs = fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3(
        "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    x = torch.randint(0, 256, [4, 3, 32, 32], dtype=torch.uint8)
    pool, logits = theirs(x)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    got, probabilities = metrics.inception_features(weights, sha256=digest)(x)
    torch.testing.assert_close(got, pool, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probabilities, logits.softmax(1), rtol=1e-4, atol=1e-5)


def test_half_pixel_features_are_pytorch_fids_with_the_same_weights(fidelity, weights, monkeypatch):
    theirs = pytest.importorskip("pytorch_fid.inception", reason="pytorch-fid is not installed")
    state = torch.load(weights, weights_only=True)
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: state)
    x = torch.randint(0, 256, [2, 3, 32, 32], dtype=torch.uint8)
    with torch.no_grad():
        want = theirs.InceptionV3([3]).eval()(x / 255)[0].flatten(1)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    got, _ = metrics.inception_features(weights, resize="half_pixel", sha256=digest)(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
