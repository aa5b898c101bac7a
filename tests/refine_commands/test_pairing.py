"""`refine.py gan` with a student and a teacher of other sizes, classes or strength."""

from __future__ import annotations

import json

import pytest
import torch

import checkpoints
import image_sets
import students
import teachers
from refiners.runs.pairing import bring_together, parse_interval, read_class_map, whole
from students import originals
from students.stylegan2.generator import Generator

TINY = (
    *("--kimg", "0.016", "--batch", "8", "--warmup-kimg", "0.016", "--glr", "0.01", "--seed", "1"),
    *("--teacher-images", "100", "--teacher-steps", "2", "--num", "100", "--device", "cpu"),
)


@pytest.fixture
def gan(files, refine_py):
    """Call gan on a student and a teacher with the settings of a tiny run."""

    def call(outdir, *more, student="large.pkl", teacher="classes.pkl"):
        given = ("--student", files / student, "--teacher", files / teacher, "--outdir", outdir)
        return refine_py("gan", *given, *TINY, *more)

    return call


@pytest.fixture
def class_map(tmp_path):
    """Write a class map of these lines and return its path."""

    def write(*lines):
        path = tmp_path / "classes.txt"
        path.write_text("\n".join(lines))
        return path

    return write


def test_a_larger_colour_student_with_its_own_classes_is_refined_and_keeps_its_form(
    gan, files, class_map, tmp_path
):
    out = tmp_path / "out"
    options = ("--adapt", "area", "--class-map", class_map("2  # cats", "0"), "--keep", "last")
    result = gan(out, *options, "--method", "diff-instruct")
    assert result.exit_code == 0, result.output
    (folder,) = out.iterdir()
    before, after = (students.load(p) for p in (files / "large.pkl", *folder.glob("network*.pkl")))
    assert (after.img_resolution, after.img_channels, after.c_dim) == (32, 3, 2)
    changed = [
        name
        for name, tensor in after.state_dict().items()
        if not torch.equal(tensor, before.state_dict()[name])
    ]
    assert any(name.startswith("synthesis.") for name in changed)
    log = (folder / "log.txt").read_text()
    assert "whole, as 16 x 16, averaged over areas" in log
    assert "colour is not seen or corrected" in log
    told = json.loads((folder / "training_options.json").read_text())
    assert told["adapt"] == "area"


@pytest.mark.parametrize("adapt", ["crop", pytest.param("tiles", marks=pytest.mark.slow)])
def test_windows_and_hidden_classes_work_to_the_end_with_the_judge(gan, tmp_path, adapt):
    options = ("--adapt", adapt, "--class-map", "none", "--method", "diff-instruct-moments")
    result = gan(tmp_path, *options, teacher="teacher.pkl")
    assert result.exit_code == 0, result.output
    (folder,) = tmp_path.iterdir()
    assert "which of the 2 classes an image is of is not seen" in (folder / "log.txt").read_text()
    assert json.loads((folder / "report.json").read_text())["comparison"]


def test_the_auxiliary_of_a_guided_teacher_starts_from_the_unguided_one(files, class_map):
    student, teacher = (
        students.load(files / "large.pkl"),
        teachers.load(files / "classes.pkl"),
    )
    pair = bring_together(
        student, teacher, adapt="area", class_map=str(class_map("2", "0")), guidance=3.0
    )
    torch.manual_seed(0)
    x, sigma = torch.randn(2, 1, 16, 16), torch.tensor([0.5, 2.0])
    labels, theirs = torch.eye(2), torch.eye(3)[[2, 0]]
    with_label, without = teacher(x, sigma, theirs), teacher(x, sigma)
    torch.testing.assert_close(
        pair.teacher(x, sigma, labels), without + 3 * (with_label - without), rtol=1e-4, atol=1e-5
    )
    assert pair.auxiliary is not None
    torch.testing.assert_close(pair.auxiliary(x, sigma, labels), with_label)
    assert whole(pair.student) is student


def test_without_options_the_pair_is_what_was_given(files):
    student, teacher = students.load(files / "gan.pkl"), teachers.load(files / "teacher.pkl")
    pair = bring_together(student, teacher)
    assert pair.student is student
    assert pair.teacher is teacher
    assert pair.auxiliary is None
    assert pair.remark == ""


@pytest.mark.slow
def test_a_guided_run_ends_with_a_report(gan, files, class_map, tmp_path):
    options = ("--adapt", "area", "--class-map", class_map("2", "0"), "--guidance", "2")
    interval = ("--guidance-interval", "0.2,5", "--method", "diff-instruct", "--keep", "last")
    result = gan(tmp_path / "out", *options, *interval)
    assert result.exit_code == 0, result.output
    weak = ("--guidance", "2", "--guide", files / "teacher.pkl", "--keep", "last")
    result = gan(tmp_path / "weak", *weak, student="gan.pkl", teacher="teacher.pkl")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "bridge the two (--adapt)"),
        (("--adapt", "area"), "say which stands for which (--class-map)"),
        (("--class-map", "MAP"), "1 class numbers, the student 2 classes"),
        (("--guidance-interval", "0,1"), "nothing guides; give --guidance"),
        (("--guidance", "2", "--guidance-interval", "a"), "give LOW,HIGH"),
        (("--guide", "TEACHER"), "--guidance is 1, which is no guidance"),
        (("--class-map", "missing.txt"), "missing.txt"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_in_one_line(
    gan, files, class_map, tmp_path, options, complaint
):
    stands = {"MAP": str(class_map("1")), "TEACHER": str(files / "teacher.pkl")}
    result = gan(tmp_path / "out", *(stands.get(text, text) for text in options))
    assert result.exit_code == 2
    *others, line = result.stderr.strip().splitlines()
    assert complaint in line
    # Where another teacher would fit, the best are named before.
    assert all(other.startswith("refine.py gan --student") for other in others)
    assert not (tmp_path / "out").exists()


def test_options_for_classes_need_a_student_with_classes(gan, tmp_path):
    for option, complaint in (
        (("--class-map", "none"), "the student has no classes"),
        (("--guidance", "2"), "a student without classes"),
    ):
        result = gan(tmp_path, *option, student="gan.pkl")
        assert result.exit_code == 2
        assert complaint in result.stderr


def test_a_class_map_is_one_number_a_line(class_map):
    assert read_class_map(class_map("3", "", "# none of ours", "0 # cat"), 2) == [3, 0]
    with pytest.raises(ValueError, match=r"line 2 is 'dog'; give a class number"):
        read_class_map(class_map("3", "dog"), 2)


def test_an_interval_is_two_numbers():
    assert parse_interval("0.2,inf") == (0.2, float("inf"))
    for text in ("1", "1,2,3", "nan,1", "a,b"):
        with pytest.raises(ValueError, match="give LOW,HIGH"):
            parse_interval(text)


@pytest.mark.parametrize("adapt", ["area", pytest.param("crop", marks=pytest.mark.slow)])
def test_a_student_of_landscapes_is_refined_and_stays_one(gan, files, refine_py, tmp_path, adapt):
    network = Generator(
        z_dim=8,
        c_dim=0,
        w_dim=8,
        img_resolution=16,
        img_channels=1,
        init_res=(4, 6),
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs={"channel_base": 64, "channel_max": 4},
    )
    path = tmp_path / "wide.pkl"
    checkpoints.write({"G_ema": originals.describe(network.requires_grad_(False).eval())}, path)
    refused = gan(tmp_path / "out", student=path, teacher="teacher.pkl")
    assert refused.exit_code == 2
    assert "images are 16 x 24, the teacher's 16 x 16; bridge the two (--adapt" in refused.stderr
    options = ("--adapt", adapt, "--method", "adversarial-moments")
    done = gan(tmp_path / "out", *options, student=path, teacher="teacher.pkl")
    assert done.exit_code == 0, done.output
    (folder,) = (tmp_path / "out").iterdir()
    assert students.load(folder / "result.pkl").img_shape == (16, 24)
    assert "the student's 16 x 24 images" in (folder / "log.txt").read_text()
    told = refine_py("inspect", folder / "result.pkl")
    assert "16 x 24, 1 channels" in told.stdout
    out = tmp_path / "wide.safetensors"
    assert refine_py("export", folder / "result.pkl", "--out", out).exit_code == 0
    assert "images of 16 x 24 with 1 channels" in (tmp_path / "README.md").read_text()
    assert students.load(out).img_shape == (16, 24)
    drawn = refine_py("generate", "--network", out, "--seeds", "0", "--outdir", tmp_path / "images")
    assert drawn.exit_code == 0, drawn.output
    assert image_sets.ImageFolder(tmp_path / "images").shape == (1, 16, 24)
