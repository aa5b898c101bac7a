"""Restart files: what is kept of a training, and what comes back."""

from __future__ import annotations

import copy

import pytest
import torch

from metrics.spaces.features import Classifier
from refine_demo import restart
from refine_demo.classifier import Normalised


def state_of(modules):
    return {name: module.state_dict() for name, module in modules.items()} | {
        "num_images": 5000,
        "seam": 0,
        "core_seconds": 12.5,
    }


def pair(width):
    """A network, its average near to it, and an optimiser that has moments."""
    network = torch.nn.Linear(width, width)
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network(torch.randn(3, width)).square().mean().backward()
    optimizer.step()
    return {"network": network, "average": average, "optimizer": optimizer}


@pytest.mark.parametrize(
    ("width", "form", "tolerance"),
    # Half a unit in the last of 11 bits for weights below 1/16; the difference after one step of
    # 1e-3 is in 127 steps on each side, beside that.
    [(64, "float32", 0), (1300, "float16", 2**-16), (1600, "int8", 2**-16 + 1e-3 / 254)],
)
def test_a_restart_file_takes_the_finest_form_that_fits(tmp_path, width, form, tolerance):
    modules = pair(width)
    path = tmp_path / "x.restart.pt"
    assert restart.save(path, state_of(modules)) == form
    assert path.stat().st_size <= restart.MAX_BYTES
    fresh = pair(width)
    moments = copy.deepcopy(fresh["optimizer"].state_dict())
    assert restart.load(path, fresh) == {"num_images": 5000, "core_seconds": 12.5}
    for name in ("network", "average"):
        for key, value in modules[name].state_dict().items():
            error = (fresh[name].state_dict()[key] - value).abs().max().item()
            assert error <= (0 if form == "float32" else 2 * tolerance)
    assert str(fresh["optimizer"].state_dict()) == str(moments)


def test_what_is_too_large_is_refused_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.restart.pt"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="allowed are 8000000"):
        restart.save(path, state_of(pair(1700)))
    assert path.read_bytes() == b"old"


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path):
    modules = pair(1300)
    with torch.no_grad():
        modules["network"].weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"not finite: network\.weight"):
        restart.save(tmp_path / "x.restart.pt", state_of(modules))


def test_networks_of_another_size_are_refused(tmp_path):
    path = tmp_path / "x.restart.pt"
    restart.save(path, state_of(pair(64)))
    with pytest.raises(ValueError, match=r"weight is \[64, 64\] instead of \[32, 32\]"):
        restart.load(path, pair(32))
    with pytest.raises(ValueError, match="holds average, network; expected network"):
        restart.load(path, {"network": torch.nn.Linear(64, 64)})


def test_normalisation_folds_into_the_weights():
    training = Normalised(Classifier(img_channels=3))
    for _ in range(3):
        training(torch.randn(8, 3, 32, 32) * 2 + 1)
    x = torch.randn(4, 3, 32, 32)
    training.eval()
    wanted = training(x)
    found = training.folded()(x)
    # Float32 rounding of a few sums of some hundred terms near 1.
    for a, b in zip(wanted, found, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
