"""Real images show a teacher that is no better than the student, and the run then does nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

import image_sets
import metrics
import students

TINY = (
    *(
        "--kimg",
        "0.016",
        "--batch",
        "8",
        "--tick",
        "0.016",
        "--snap",
        "1",
        "--warmup-kimg",
        "0.008",
    ),
    *("--num", "200", "--teacher-images", "100", "--teacher-steps", "2", "--device", "cpu"),
    *("--set", "num_reference=100", "--set", "num_features=8", "--set", "memory=20"),
)


def test_a_student_whose_own_images_are_the_data_is_handed_back_unless_forced(
    files: Path, refine_py: Callable[..., Result], tmp_path: Path
) -> None:
    student = students.load(files / "gan.pkl")
    images = (image for part in metrics.draw_images(student, 600, seed=7) for image in part.numpy())
    image_sets.write_zip(tmp_path / "data.zip", images, None)
    given = ("--student", files / "gan.pkl", "--teacher", files / "teacher.pkl", *TINY)
    given += ("--data", tmp_path / "data.zip", "--outdir", tmp_path / "out")
    result = refine_py("gan", *given)
    assert result.exit_code == 0, result.output
    assert "result.pkl is the original: the teacher's own samples are not better (" in result.output
    assert "--force goes on" in result.output
    (folder,) = (tmp_path / "out").iterdir()
    assert not list(folder.glob("network-snapshot-*")) and (folder / "report.html").is_file()
    before, after = (students.load(path) for path in (files / "gan.pkl", folder / "result.pkl"))
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        assert a.equal(b)
    forced = refine_py("gan", *given, "--force")
    assert forced.exit_code == 0, forced.output
    (folder,) = (tmp_path / "out").glob("00001-*")
    assert list(folder.glob("network-snapshot-*"))
    assert "the teacher's own samples stand at" not in (folder / "log.txt").read_text()
