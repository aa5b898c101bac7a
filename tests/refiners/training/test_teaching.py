"""Training a denoiser: its loss in closed form, and a step that resumes and shares as others do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from refiners import ImageSet, RunFolder, Settings, read_state
from refiners.denoising import Denoising
from refiners.runs.teacher_sampler import TeacherSampler
from refiners.training.low_rank import changes_of, merged
from refiners.training.teaching import Teaching
from teachers.edm import EDMPrecond


def small(**options: Any) -> EDMPrecond:
    torch.manual_seed(3)
    usual: dict[str, Any] = {
        "label_dim": 3, "augment_dim": 9, "dropout": 0.1, "label_dropout": 0.2, "channel_mult": [1],
        "model_channels": 4, "num_blocks": 1, "attn_resolutions": [], "model_type": "SongUNet",
    }  # fmt: skip
    return EDMPrecond(img_resolution=8, img_channels=1, **{**usual, **options})


def images(n: int = 50) -> ImageSet:
    """Each of one gray, which is easily learned."""
    generator = torch.Generator().manual_seed(0)
    grays = torch.randint(0, 256, [n, 1, 1, 1], dtype=torch.uint8, generator=generator)
    pixels = grays.expand(n, 1, 8, 8).contiguous()
    return ImageSet(pixels, torch.eye(3)[torch.arange(n) % 3])


def teaching(network: Any = None, method: Denoising | None = None, **changes: Any) -> Teaching:
    given = {"kimg": 0.16, "batch": 16, "lr": 1e-3, "beta1": 0.9, "rampup_kimg": 0.05, **changes}
    return Teaching(
        network or small(),
        method or Denoising(augment=0.3, xflip=True),
        Settings(**given),
        real_images=images(),
        sampler=lambda denoiser: TeacherSampler(denoiser, num_steps=4),
    )


def steps(run: Teaching, count: int) -> list[dict[str, float]]:
    return [run.advance() for _ in range(count)]


class Exact:
    """The denoiser of N(0, spread^2), which notes what it was told of augmentations."""

    def __init__(self, spread: float):
        self.spread, self.told = spread, []

    def __call__(
        self, x: Any, sigma: Any, labels: Any = None, *, augment_labels: Any = None
    ) -> Any:
        self.told.append(augment_labels)
        s = sigma[:, None, None, None].square()
        return self.spread**2 / (self.spread**2 + s) * x


@pytest.mark.parametrize("spread", [0.25, 0.5, 1.0])
def test_loss_of_the_exact_denoiser_of_a_gaussian_is_known_at_each_level(spread: float) -> None:
    torch.manual_seed(0)
    method, sigma = Denoising(), torch.tensor([0.05, 0.5, 3.0]).repeat_interleave(400)
    x_0 = spread * torch.randn(1200, 1, 8, 8)
    x = x_0 + sigma[:, None, None, None] * torch.randn_like(x_0)
    errors = method.errors(Exact(spread)(x, sigma), x_0, sigma).reshape(3, 400).mean(dim=1)
    # lambda(sigma) times the posterior's variance, 1 at any level where the spread is sigma_data.
    s = torch.tensor([0.05, 0.5, 3.0]).square()
    expected = (s + 0.25) / (0.25 * s) * spread**2 * s / (spread**2 + s)
    torch.testing.assert_close(errors, expected, rtol=0.02, atol=0)


def test_loss_draws_its_levels_from_the_law_and_tells_the_augmentation() -> None:
    torch.manual_seed(0)
    x_0 = 0.5 * torch.randn(4000, 1, 8, 8)
    exact: Any = Exact(0.5)
    plain = Denoising(augment=0.0).loss(x_0, None, network=exact)
    assert plain.item() == pytest.approx(1, rel=0.02)
    assert exact.told == [None]
    Denoising(augment=0.2).loss(x_0, None, network=exact)
    assert exact.told[1].shape == (4000, 9)


def test_levels_are_the_laws_quantiles() -> None:
    method = Denoising(p_mean=-0.8, p_std=1.1)
    found = method.levels(torch.tensor([0.5, 0.8413447], dtype=torch.float64)).log()
    expected = torch.tensor([-0.8, 0.3], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_network_learns_its_images() -> None:
    run = teaching(method=Denoising(augment=0.0), kimg=3.2, lr=0.01)
    losses = [line["Loss/loss"] for line in steps(run, 200)]
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


@pytest.mark.parametrize("batch_gpu", [0, 6])
def test_a_state_goes_on_bit_for_bit(tmp_path: Path, batch_gpu: int) -> None:
    whole, first = teaching(batch_gpu=batch_gpu), teaching(batch_gpu=batch_gpu)
    steps(whole, 8)
    steps(first, 5)
    path = RunFolder(tmp_path).write_state("000000", first.state_dict())
    torch.manual_seed(99)
    second = teaching(batch_gpu=batch_gpu)
    second.load_state_dict(read_state(path))
    steps(second, 3)
    for name in ("network", "ema"):
        mine, theirs = (getattr(run, name).state_dict() for run in (second, whole))
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert not torch.equal(
        whole.ema.state_dict()["model.map_layer0.weight"],
        whole.network.state_dict()["model.map_layer0.weight"],
    )


def test_a_state_of_another_training_is_refused() -> None:
    state = teaching().state_dict()
    with pytest.raises(ValueError, match=r"augment 0.3 -> 0.1"):
        teaching(method=Denoising(augment=0.1, xflip=True)).load_state_dict(state)


def test_the_network_given_is_not_changed_and_the_result_is_in_eval_mode() -> None:
    network = small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    run = teaching(network)
    steps(run, 2)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert run.network.training and not run.ema.training


def test_half_precision_passes_leave_a_finite_teacher() -> None:
    run = teaching(precision="bf16")
    steps(run, 3)
    assert all(bool(p.isfinite().all()) for p in run.ema.parameters())


def test_low_rank_training_starts_as_the_network_and_moves_little_of_it() -> None:
    network = small(attn_resolutions=[8])
    for p in network.parameters():  # its last layers start near zero
        p.data += 0.1 * torch.randn_like(p)
    run = teaching(network, Denoising(augment=0.3, rank=2))
    x, labels = torch.randn(2, 1, 8, 8), torch.eye(3)[:2]
    network.eval()
    assert torch.equal(run.ema(x, 0.5, labels), network(x, 0.5, labels))
    steps(run, 3)
    whole = merged(run.ema)
    torch.testing.assert_close(whole(x, 0.5, labels), run.ema(x, 0.5, labels))
    before, after = network.state_dict(), whole.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    pointwise = {n for n, v in before.items() if v.ndim == 4 and v.shape[2:] == (1, 1)}
    told = {name for name in before if "map_label" in name or "map_augment" in name}
    assert moved == (pointwise - {n for n in pointwise if "resample" in n}) | told
    for name in moved - told:
        change = (after[name] - before[name])[:, :, 0, 0]
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 2
    # What is kept beside the base makes the same weights of it.
    kept = changes_of(run.ema)
    for name in moved - told:
        layer = name.removesuffix(".weight")
        product = kept[f"{layer}.up"] @ kept[f"{layer}.down"]
        torch.testing.assert_close(before[name] + product[:, :, None, None], after[name])


def test_low_rank_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    method = Denoising(augment=0.0, rank=2)
    whole, first, second = (teaching(method=method) for _ in range(3))
    steps(whole, 4)
    steps(first, 2)
    second.load_state_dict(
        read_state(RunFolder(tmp_path).write_state("000000", first.state_dict()))
    )
    steps(second, 2)
    theirs = whole.ema.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in second.ema.state_dict().items())
