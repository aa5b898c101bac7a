"""Small networks in files, and the command line as a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import checkpoints
import teachers
from metrics import Moments, Statistics
from metrics.spaces.features import Classifier, ClassifierFeatures, save_features
from refine import main
from students import originals
from students.stylegan2.generator import Generator
from teachers.edm import EDMPrecond


def write_teacher(path: Path, *, label_dim: int = 0, label_dropout: float = 0.0) -> Path:
    network = EDMPrecond(
        img_resolution=16,
        img_channels=1,
        label_dim=label_dim,
        augment_dim=9,  # as EDM's files have
        model_channels=4,
        channel_mult=[1, 1],
        num_blocks=1,
        attn_resolutions=[],
        dropout=0.0,
        label_dropout=label_dropout,
    )
    # A new network's last layer is zero; this one has something to say.
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    teachers.save(network.eval().requires_grad_(False), path)
    return path


def write_student(path: Path, *, c_dim: int = 0, size: int = 16, channels: int = 1) -> None:
    network = Generator(
        z_dim=8,
        c_dim=c_dim,
        w_dim=8,
        img_resolution=size,
        img_channels=channels,
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs={"channel_base": 64, "channel_max": 4},
    )
    record = originals.describe(network.requires_grad_(False).eval())
    checkpoints.write({"G_ema": record}, path)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of small networks and features.npz.

    teacher.pkl; classes.pkl, a teacher of 3 classes with label dropout; gan.pkl; large.pkl, a
    student of 2 classes, 32 x 32, in colour.
    """
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    write_teacher(folder / "teacher.pkl")
    write_teacher(folder / "classes.pkl", label_dim=3, label_dropout=0.1)
    write_student(folder / "gan.pkl")
    write_student(folder / "large.pkl", c_dim=2, size=32, channels=3)
    network = Classifier(img_resolution=16, img_channels=1, widths=(2, 2, 4), num_features=6)
    features = ClassifierFeatures(network)
    images = torch.randint(0, 256, [100, 1, 16, 16], dtype=torch.uint8)
    sample = features(images)[0]
    statistics = Statistics.of(Moments.of(sample), space="test space", features=sample)
    save_features(folder / "features.npz", network, statistics, name="test space")
    return folder


@pytest.fixture
def refine_py() -> Callable[..., Result]:
    """Call the command line with these arguments."""
    return lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])
