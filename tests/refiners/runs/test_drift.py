"""What becomes of seeds, truncated seeds and saved w when a generator moves."""

from __future__ import annotations

import copy

import pytest
import torch

from refiners.runs.drift import NUM_LATENTS, drift, moved, renew_w_avg
from students.stylegan2.generator import Generator
from students.w_average import estimate_w_avg
from tests.refiners.conftest import AffineStudent


def small(c_dim: int = 0) -> Generator:
    torch.manual_seed(0)
    network = Generator(
        z_dim=8,
        c_dim=c_dim,
        w_dim=8,
        img_resolution=16,
        img_channels=1,
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs={"channel_base": 64, "channel_max": 4},
    )
    return network.eval().requires_grad_(False)


def pixels(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1).double()


@pytest.mark.parametrize("c_dim", [0, 3])
def test_a_student_that_did_not_move_drifts_nowhere_in_any_way(c_dim: int) -> None:
    student = small(c_dim)
    found = drift(student, copy.deepcopy(student), pixels, seed=3)
    assert [d["way"] for d in found] == ["seeds", "seeds at psi 0.7", "saved w"]
    assert all((d["median"], d["p90"], d["large"]) == (0, 0, 0) for d in found)
    assert {d["num_images"] for d in found} == {NUM_LATENTS}


def test_a_mapping_that_moved_moves_seeds_and_not_saved_w() -> None:
    before = small()
    after = copy.deepcopy(before)
    after.mapping.fc0.weight.mul_(1.5)  # pyright: ignore
    seeds, truncated, saved = drift(before, after, pixels, seed=3)
    assert seeds["median"] > 0.01 and truncated["median"] > 0.01 and saved["median"] == 0
    assert moved(before, after, "mapping") == pytest.approx(0.5, rel=0.01)
    assert moved(before, after, "synthesis") == 0


def test_another_law_drifts_as_far_as_two_images_are_apart() -> None:
    """Images that answer the opposite latent are twice their spread away, here about sqrt 2."""
    before, after = AffineStudent(0.0, 0.3), AffineStudent(0.0, -0.3)
    (found,) = drift(before, after, pixels, seed=0)  # pyright: ignore[reportArgumentType]
    assert found["median"] == pytest.approx(2**0.5, rel=0.1) and found["large"] == 1


def test_w_avg_is_the_mean_of_w_and_is_estimated_anew_only_where_mapping_moved() -> None:
    before = small()
    after = copy.deepcopy(before)
    kept = after.mapping.w_avg.clone()
    renew_w_avg(before, after)
    assert torch.equal(after.mapping.w_avg, kept)
    after.mapping.fc0.bias.add_(2.0)  # pyright: ignore
    renew_w_avg(before, after)
    ws = after.mapping(torch.randn(10_000, 8, generator=torch.Generator().manual_seed(9)))[:, 0]
    spread = ws.std(dim=0) * (2 / 10_000) ** 0.5  # of the difference of two such means
    assert ((after.mapping.w_avg - ws.mean(dim=0)).abs() < 5 * spread).all()
    assert not torch.equal(after.mapping.w_avg, kept)


def test_what_has_no_w_avg_is_left_alone() -> None:
    assert not estimate_w_avg(AffineStudent(0.0, 1.0))  # pyright: ignore[reportArgumentType]
