"""Between two generators: the ends are the ends, and the middle is their mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

import students
from refiners.training.blend import blend


@pytest.fixture
def two(files: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A generator's file, and one with other weights."""
    other = students.load(files / "gan.pkl")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    students.save(other, tmp_path / "other.pkl", like=files / "gan.pkl")
    return files / "gan.pkl", tmp_path / "other.pkl"


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0, 1.5])
def test_every_weight_lies_that_far_between(
    two: tuple[Path, Path], refine_py: Callable[..., Result], tmp_path: Path, alpha: float
) -> None:
    out = tmp_path / "between.pkl"
    result = refine_py("blend", *two, "--alpha", alpha, "--out", out)
    assert result.exit_code == 0, result.output
    a, b, found = (dict(students.load(path).named_parameters()) for path in (*two, out))
    for name, value in found.items():
        torch.testing.assert_close(value, a[name] + alpha * (b[name] - a[name]))
    if alpha in (0, 1):
        ends = (a, b)[int(alpha)]
        assert all(torch.equal(found[name], ends[name]) for name in found)


def test_the_networks_given_stay_as_they_were() -> None:
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    before = [t.clone() for t in (*a.state_dict().values(), *b.state_dict().values())]
    blend(a, b, 0.5)
    after = [*a.state_dict().values(), *b.state_dict().values()]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_what_cannot_be_blended_is_one_line(
    two: tuple[Path, Path], files: Path, refine_py: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "between.pkl"
    for changes, complaint in (
        (("--alpha", "nan", "--out", out), "--alpha is nan"),
        (("--alpha", "1", "--out", tmp_path / "no/where.pkl"), "folder does not exist"),
    ):
        result = refine_py("blend", *two, *changes)
        assert result.exit_code == 2 and complaint in result.output
    assert not out.exists()
    with pytest.raises(ValueError, match="same architecture"):
        blend(torch.nn.Linear(2, 2), torch.nn.Linear(3, 2), 0.5)
