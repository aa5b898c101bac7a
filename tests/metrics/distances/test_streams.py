"""What is kept of a stream: the same however it is cut, whole and without each group."""

from __future__ import annotations

import pytest
import torch

from metrics import Moments
from metrics.distances.streams import GroupedMoments
from roles import Processes


@pytest.mark.parametrize("num", [7, 40, 1000])
def test_leaving_a_group_out_equals_the_moments_of_the_other_samples(num):
    x = torch.randn(num, 5, dtype=torch.float64)
    groups = GroupedMoments(5, 4)
    for part in x.split(33):
        groups.update(part)
    groups.finish(Processes())
    for left_out in range(-1, 4):
        found, want = groups.without(left_out), Moments.of(x[torch.arange(num) % 4 != left_out])
        assert found.num == want.num
        torch.testing.assert_close(found.mean, want.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.scatter, want.scatter, rtol=1e-11, atol=1e-11)


def test_what_is_kept_of_a_stream_does_not_grow_with_it():
    groups, sizes = GroupedMoments(3, 4), set()
    for _ in range(64):
        groups.update(torch.randn(40, 3))
        kept = sum(group.scatter.numel() + group.mean.numel() for group in groups.groups)
        sizes.add(kept)
        assert len(groups.waiting) < 4 * GroupedMoments.ROWS_PER_GROUP
        # Memory of what was taken already is not held on to.
        assert groups.waiting.untyped_storage().nbytes() <= 8 * 3 * (256 + 40)
    assert len(sizes) == 1


def test_grouped_moments_are_bit_equal_however_the_stream_is_cut():
    x = torch.randn(1000, 5)
    totals = []
    for size in (1000, 64, 7):
        groups = GroupedMoments(5, 4)
        for part in x.split(size):
            groups.update(part)
        groups.finish(Processes())
        totals.append(groups.total)
    for other in totals[1:]:
        assert torch.equal(other.mean, totals[0].mean)
        assert torch.equal(other.scatter, totals[0].scatter)
