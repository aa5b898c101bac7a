"""The judge sees images that no method does, and tells nearer from farther."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import metrics
from refiners import ImageSet
from refiners.runs.best import Best
from refiners.runs.judge import HALFWAY, Judge, held_back, judge_by, judge_of
from students.base import StudentModule


def shapes(n: int, *, seed: int = 0, share: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of two classes, bars across or down at random places, and their one-hot labels."""
    generator = torch.Generator().manual_seed(seed)
    across = torch.rand([n], generator=generator) < share
    at = torch.randint(2, 13, [n], generator=generator)
    images = torch.zeros(n, 1, 16, 16, dtype=torch.uint8)
    for image, is_across, where in zip(images, across.tolist(), at.tolist(), strict=True):
        (image[0, where : where + 2] if is_across else image[0, :, where : where + 2]).fill_(255)
    return images, torch.nn.functional.one_hot(across.long(), 2).float()


class Bars(StudentModule):
    """Draws such images; its share of the first class is a parameter's."""

    def __init__(self, share: float):
        super().__init__()
        self.z_dim, self.c_dim, self.img_resolution, self.img_channels = 2, 0, 16, 1
        self.share = torch.nn.Parameter(torch.tensor(share))

    def forward(
        self, z: torch.Tensor, c: torch.Tensor | None = None, **options: Any
    ) -> torch.Tensor:
        seed = int(z.double().abs().sum() * 1e6) % 2**31
        images = shapes(len(z), seed=seed, share=self.share.item())[0]
        return images.float() / 127.5 - 1


@pytest.fixture(scope="module")
def judge() -> Judge:
    return judge_of(ImageSet(*shapes(900)), num=500, seed=0, device="cpu")


def test_a_third_is_held_back_and_no_image_is_on_both_sides() -> None:
    images = torch.arange(90, dtype=torch.uint8).reshape(90, 1, 1, 1)
    seen, kept = held_back(ImageSet(images, torch.eye(90)), seed=3)
    assert (len(seen.images), len(kept.images)) == (60, 30)
    both = torch.cat([seen.images, kept.images]).flatten()
    assert both.sort().values.tolist() == list(range(90))
    assert kept.labels is not None
    assert torch.equal(kept.labels.argmax(dim=1), kept.images.flatten().long())


def test_the_parts_of_a_judge_are_of_different_images(judge: Judge) -> None:
    parts = (judge.chooses, judge.confirms, judge.reports)
    assert [part.statistics.num for part in parts] == [75, 150, 75]
    assert len({part.sha256 for part in parts}) == 3


def test_the_nearer_student_has_the_smaller_number_and_the_change_excludes_zero(
    judge: Judge,
) -> None:
    near, far = Bars(0.55), Bars(0.95)
    assert judge(near) < judge(far)
    change = judge.change(far, near)
    assert change.high < 0 and judge.change(near, near).change == 0


def test_images_of_another_maker_lead_where_they_are_nearer_and_not_where_they_are_alike(
    judge: Judge,
) -> None:
    near, far = ImageSet(*shapes(500, seed=1)), ImageSet(*shapes(500, seed=1, share=0.95))
    ahead, behind = judge.lead(Bars(0.95), near), judge.lead(Bars(0.5), far)
    assert ahead.high < 0 < behind.low
    assert ahead.num_images == 500
    alike = judge.lead(Bars(0.5), near)
    assert alike.low < 0 < alike.high


def test_the_order_of_ready_images_does_not_widen_the_interval(judge: Judge) -> None:
    """A teacher's images come class by class in turn, as groups of the jackknife do."""
    images, labels = shapes(400, seed=1)
    across = labels[:, 1] == 1
    half = min(int(across.sum()), int((~across).sum()))
    turns = torch.stack([images[across][:half], images[~across][:half]], dim=1).flatten(0, 1)
    shuffled = turns[torch.randperm(2 * half)]
    widths = [lead.high - lead.low for lead in (
        judge.lead(Bars(0.5), ImageSet(order)) for order in (turns, shuffled)
    )]  # fmt: skip
    assert widths[0] == pytest.approx(widths[1], rel=0.5)


def test_where_no_real_images_tell_half_of_the_way_is_gone_though_the_judge_likes_the_end(
    judge: Judge,
) -> None:
    told = {}
    for reach in (1.0, HALFWAY):
        best = Best(dataclasses.replace(judge, reach=reach), Bars(0.9))
        best.consider(Bars(0.9), 0)
        best.consider(Bars(0.5), 1000)
        told[reach] = best.settle()
        assert best.network.share.item() == pytest.approx(0.9 - 0.4 * best.alpha)  # pyright: ignore
        assert best.alpha > 0.5 if reach == 1 else best.alpha == reach
    assert "no farther" not in told[1.0]
    assert told[HALFWAY].startswith("a network 0.5 times the way from the original to that at kim")
    assert "no farther, as no real images tell" in told[HALFWAY]


def test_a_choice_that_others_do_not_confirm_is_not_handed_back(judge: Judge) -> None:
    class Fooled(Judge):
        """Chooses by a number of its own."""

        def __call__(self, student: Any) -> float:
            return -student.share.item()

    best = Best(Fooled(**vars(judge)), Bars(0.5))
    best.consider(Bars(0.5), 0)
    best.consider(Bars(0.9), 1000)
    assert best.num_images == 1000
    told = best.settle()
    assert told.startswith("the original: ") and "not better on other images" in told
    assert best.network.share.item() == 0.5 and best.num_images == 0  # pyright: ignore


def test_a_reference_with_single_images_judges_by_them() -> None:
    values = torch.randn(900, 4, generator=torch.Generator().manual_seed(0))

    def space(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :4].float()

    def of(num: int, rows: int) -> metrics.Reference:
        features = values[:rows].numpy()
        statistics = metrics.Statistics(np.zeros(4), np.eye(4), num, None, features)
        return metrics.Reference(statistics, space, "here")

    few = judge_by(of(10_000, 500), num=500, seed=0)
    many, whole = (
        judge_by(of(900, 900), num=500, seed=0),
        judge_by(of(10_000, 900), num=500, seed=0),
    )
    assert few is None and many is not None and whole is not None
    rows = [many.chooses.rows, many.confirms.rows, many.reports.rows]
    together = torch.cat([row for row in rows if row is not None])
    assert together.shape == (900, 4) and len(torch.unique(together, dim=0)) == 900
    assert whole.reports.statistics.num == 10_000


@pytest.mark.parametrize("labelled", [True, False])
def test_a_fresh_space_depends_on_its_seed_alone(labelled: bool) -> None:
    images, labels = shapes(200)
    spaces = []
    for seed in (1, 1, 2):
        before = torch.get_rng_state()
        spaces.append(metrics.fresh_features(images, labels if labelled else None, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
    assert spaces[0].sha256 == spaces[1].sha256 != spaces[2].sha256
    values, classes = spaces[0](images[:10])
    assert values.shape == (10, spaces[0].dim)
    assert (classes is not None) is labelled
    if classes is not None:
        assert (classes.argmax(dim=1) == labels[:10].argmax(dim=1)).float().mean() > 0.9
