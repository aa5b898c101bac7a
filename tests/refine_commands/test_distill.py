"""`refine.py distill`: a teacher becomes a one-step generator in a file of the teacher's layout."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
import torch

import image_sets
import teachers
from refiners.diff_instruct import DiffInstruct
from refiners.guided import GuidedDenoiser
from refiners.progressive import Progressive, sample_in_steps
from refiners.runs.recipes import DISTILL_PRESETS
from refiners.training.inputs import draw_inputs
from students.adapters import one_step
from students.adapters.one_step import OneStep
from teachers.sampler import inputs_of_seeds

TINY = (
    *(
        "--kimg",
        "0.032",
        "--batch",
        "8",
        "--warmup-kimg",
        "0.016",
        "--tick",
        "0.016",
        "--snap",
        "1",
    ),
    *(
        "--teacher-images",
        "100",
        "--teacher-steps",
        "2",
        "--num",
        "100",
        "--device",
        "cpu",
    ),
)


@pytest.fixture
def distill(files, refine_py):
    """Call distill on a teacher with the settings of a tiny run."""

    def call(outdir, *more, teacher="teacher.pkl", settings=TINY):
        given = ("--teacher", files / teacher, "--outdir", outdir, "--report-steps", "3")
        return refine_py("distill", *given, *settings, *more)

    return call


def result_in(outdir):
    return sorted(outdir.glob("*/result.pkl"))[-1]


def write_images(path, *, labels):
    images = np.random.default_rng(0).integers(0, 256, [12, 1, 16, 16], dtype=np.uint8)
    image_sets.write_zip(path, iter(images), labels)
    return path


def test_a_run_ends_with_a_one_step_generator_and_every_file_it_promises(files, distill, tmp_path):
    result = distill(tmp_path, "--reference", files / "features.npz", "--keep", "last")
    assert result.exit_code == 0, result.output
    (folder,) = tmp_path.iterdir()
    promised = {
        *("training_options.json", "log.txt", "stats.jsonl", "metric-frechet_distance.jsonl"),
        *("fakes_init.png", "fakes_teacher.png", "fakes_final.png", "fakes000000_032.png"),
        *("network-snapshot-000000_032.pkl", "training-state-000000_032.pt"),
        *("report.json", "report.md", "report.html"),
    }
    assert promised <= {path.name for path in folder.iterdir()}
    report = json.loads((folder / "report.json").read_text())
    first = report["comparison"]["differences"][0]
    assert f"{first['after'] / first['before']:.3g} times" in report["notes"][1]
    # Of the three steps that were told, not the two that make the teacher's images.
    assert "5 evaluations" in report["notes"][0]
    assert report["curve"][0]["kimg"] == 0
    written = result_in(tmp_path)
    assert one_step.recorded_sigma(written) == DiffInstruct.init_sigma == 1.0
    before = teachers.load(files / "teacher.pkl").state_dict()
    after = teachers.load(written).state_dict()
    assert list(before) == list(after)
    assert any(not torch.equal(before[name], after[name]) for name in before)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "method", ["dmd", pytest.param("f-distill", marks=SLOW), pytest.param("sid", marks=SLOW)]
)
def test_other_methods_distil_too_and_begin_where_their_papers_do(distill, tmp_path, method):
    pairs = ("--pairs", "20") if method == "dmd" else ()
    keep = ("--keep", "last")
    result = distill(tmp_path, "--method", method, *pairs, *keep, teacher="classes.pkl")
    assert result.exit_code == 0, result.output
    sigma = {"dmd": 80.0, "f-distill": 80.0, "sid": 2.5}[method]
    assert one_step.recorded_sigma(result_in(tmp_path)) == sigma
    assert len(list(tmp_path.glob("*/pairs/shard-*.npz"))) == (method == "dmd")


def test_the_best_student_may_be_the_one_that_was_not_trained(files, distill, tmp_path):
    """At this rate the images are soon not finite, which --ignore-health does not help."""
    high = ("--glr", "3e4", "--rampup-kimg", "0", "--ema", "0", "--ignore-health")
    result = distill(tmp_path, *high)
    assert result.exit_code == 3, result.output
    assert "result.pkl is the original" in result.output and "not finite" in result.output
    before = teachers.load(files / "teacher.pkl").state_dict()
    after = teachers.load(result_in(tmp_path)).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", ["progressive", "guided"])
def test_methods_that_train_on_images_end_in_one_step_from_the_highest_noise(
    distill, tmp_path, method
):
    images = write_images(tmp_path / "data.zip", labels=np.arange(12) % 3)
    options = ("--method", method, "--set", "num_steps=2", "--set", "sigma_max=20")
    out = tmp_path / "out"
    result = distill(out, *options, "--data", images, teacher="classes.pkl")
    assert result.exit_code == 0, result.output
    assert one_step.recorded_sigma(result_in(out)) == 20
    student = OneStep(teachers.load(result_in(out)), sigma_init=20.0)
    assert student(torch.randn(2, 256), torch.eye(3)[:2]).isfinite().all()
    assert not list(out.glob("*/teacher-images.zip"))


@pytest.mark.parametrize("stochastic", [0, 1])
def test_a_student_of_two_steps_is_drawn_from_by_its_own_sampler(
    distill, refine_py, files, tmp_path, stochastic
):
    options = ("--method", "progressive", "--set", "num_steps=2", "--set", "end_steps=2")
    options = (*options, "--set", f"stochastic={stochastic}", "--set", "sigma_max=20")
    options = (*options, "--reference", files / "features.npz")
    result = distill(tmp_path / "run", *options, teacher="classes.pkl")
    assert result.exit_code == 0, result.output
    assert "After is 2 evaluations" in result.output
    file = result_in(tmp_path / "run")
    seeds = ("--seeds", "3-5", "--class", "1", "--device", "cpu")
    for name, more in (("a", ("--batch", "1")), ("b", ())):
        done = refine_py("generate", "--network", file, "--outdir", tmp_path / name, *seeds, *more)
        assert done.exit_code == 0, done.output
    method = Progressive(num_steps=2, sigma_max=20.0, stochastic=bool(stochastic))
    denoiser = teachers.load(file)
    z, labels, streams = inputs_of_seeds(denoiser, [3, 4, 5], label=1)
    images = sample_in_steps(
        lambda x, sigma: denoiser(x, sigma, labels), z, method=method, num_steps=2,
        noise_like=lambda x: streams.randn(x.shape[1:]),
    )  # fmt: skip
    for seed, image in zip((3, 4, 5), images, strict=True):
        expected = (image * 127.5 + 128).clamp(0, 255).byte().numpy()[0]
        for name in "ab":
            drawn = np.asarray(PIL.Image.open(tmp_path / name / f"seed{seed:04d}.png"))
            assert np.abs(drawn.astype(int) - expected).max() <= 1
    done = refine_py("generate", "--network", file, "--outdir", tmp_path / "c", "--steps", "4")
    assert done.exit_code == 2 and "is a student of 2 steps, which has no --steps" in done.output


def test_a_guided_denoiser_at_one_weight_is_a_plain_denoiser(files):
    teacher = teachers.load(files / "classes.pkl")
    guided = GuidedDenoiser(teacher, layer="model.map_layer0")
    guided.embed.weight.data.normal_()
    x, sigma, labels = torch.randn(2, 1, 16, 16), torch.tensor([0.5, 3.0]), torch.eye(3)[:2]
    g = torch.full([2], 2.5)
    with torch.no_grad():
        wanted = guided(x, sigma, labels, guidance=g)
        torch.testing.assert_close(guided.at(2.5)(x, sigma, labels), wanted)
        assert not torch.allclose(guided.at(0.0)(x, sigma, labels), wanted)
    other = GuidedDenoiser(teacher, layer="model.map_noise")
    with pytest.raises(ValueError, match=r"'model\.map_noise' has no bias"):
        other.at(1.0)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(distill, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert distill(whole, "--keep", "last").exit_code == 0
    assert distill(parts, "--keep", "last", "--kimg", "0.016").exit_code == 0
    assert distill(parts, "--keep", "last", "--resume", "latest").exit_code == 0
    assert len(list(parts.iterdir())) == 1
    weights = [teachers.load(result_in(out)).state_dict() for out in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_classes_are_drawn_as_often_as_the_weights_say(files):
    student = OneStep(teachers.load(files / "classes.pkl"))
    _, uniform = draw_inputs(student, 300, torch.device("cpu"))
    assert uniform is not None and (uniform.sum(dim=0) > 60).all()
    student.class_weights = torch.tensor([1.0, 0.0, 3.0])
    _, drawn = draw_inputs(student, 400, torch.device("cpu"))
    assert drawn is not None and drawn.sum(dim=0)[1] == 0
    # Binomial with mean 300 and deviation 8.7.
    assert 260 < drawn.sum(dim=0)[2] < 340


def test_the_classes_of_a_data_set_reach_the_student(distill, tmp_path):
    images = write_images(tmp_path / "data.zip", labels=np.array([2] * 12))
    options = ("--labels", "data", "--data", images, "--keep", "last", "--method", "dmd2")
    result = distill(tmp_path / "out", *options, "-n", teacher="classes.pkl")
    # All of one class: such labels are [n, 3], as the file's highest is 2.
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["labels"] == "data"


def test_a_dry_run_writes_nothing_and_prints_every_option(distill, tmp_path):
    result = distill(tmp_path / "out", "-n", "--method", "dmd")
    shown = json.loads(result.output)
    assert (shown["init_sigma"], shown["pairs"], shown["keep"]) == (80.0, 10_000, "best")
    assert (shown["method"], shown["batch"], shown["regression"]) == ("dmd", 8, 0.25)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("preset", DISTILL_PRESETS)
def test_a_preset_stands_in_for_defaults_and_flags_beat_it(distill, tmp_path, preset):
    expected = {**DISTILL_PRESETS[preset], "batch": 7}
    knobs = dict(knob.split("=") for knob in expected.pop("knobs", ()))
    for arguments in (("--preset", preset, "--batch", "7"), ("--batch", "7", "--preset", preset)):
        shown = json.loads(distill(tmp_path, "-n", *arguments, settings=()).output)
        assert {key: shown[key] for key in expected} == expected
        assert {key: str(shown[key]) for key in knobs} == knobs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--init-sigma", "0"), "sigma_init is 0.0; it must be above 0"),
        (("--init-sigma", "nan"), "sigma_init is nan; it must be above 0"),
        (("--kimg", "-1"), "kimg is -1.0; it must be above 0"),
        (("--set", "alpha=1"), "diff-instruct has the knobs student_sigma"),
        (("--method", "sid", "--set", "alpha=x"), "--set alpha is 'x'; it must be a float"),
        (("--method", "progressive", "--set", "stochastic=2"), "'2'; it must be 0 or 1"),
        (("--method", "progressive", "--set", "num_steps=3"), "it must be a power of two"),
        (("--method", "progressive", "--init-sigma", "1"), "takes no --init-sigma; use --set"),
        (("--method", "progressive", "--keep", "best"), "takes no --keep best"),
        (("--method", "guided"), "guidance needs a conditional teacher"),
        (("--method", "guided", "--set", "guidance=9"), "guidance is 9.0; it must be in"),
        (("--pairs", "10"), "diff-instruct takes no --pairs; leave it out"),
        (("--distance", "pseudo-huber"), "diff-instruct takes no --distance; leave it out"),
        (("--method", "dmd", "--distance", "l2"), "--distance is 'l2'; allowed are pseudo-huber"),
        (("--labels", "data"), "--labels is data, but there is no --data"),
        (("--data", "{images}", "--labels", "data"), "has no labels of the teacher's classes"),
        (("--data", "{wrong}"), "the teacher of [1, 16, 16]"),
        (("--reference", "no.npz"), "no.npz"),
        (("--resume", "latest"), "no training-state"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(
    distill, tmp_path, options, words
):
    images = write_images(tmp_path / "images.zip", labels=None)
    wrong = tmp_path / "wrong.zip"
    image_sets.write_zip(wrong, iter(np.zeros([2, 3, 8, 8], dtype=np.uint8)), None)
    out = tmp_path / "out"
    result = distill(out, *(o.format(images=images, wrong=wrong) for o in options))
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert (result.exit_code, len(lines)) == (2, 1), result.output
    assert words in lines[0]
    assert not out.exists()


@pytest.mark.parametrize("name", ["gan.pkl", "features.npz", "no.pkl", "."])
def test_what_is_no_teacher_is_refused(files, distill, tmp_path, name):
    result = distill(tmp_path / "out", teacher=name)
    assert result.exit_code == 2
    assert str(files / name) in result.output
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverges_ends_with_one_line_and_exit_code_3(
    files, distill, refine_py, tmp_path
):
    wild = (
        "--glr",
        "1e30",
        "--rampup-kimg",
        "0",
        "--warmup-kimg",
        "0",
        "--keep",
        "last",
        "--metrics",
        "none",
    )
    long = ("--kimg", "0.1", "--tick", "1")
    pair = ("--student", files / "gan.pkl", "--teacher", files / "teacher.pkl")
    refined = refine_py("gan", *pair, "--outdir", tmp_path / "a", *TINY, *wild, *long,
                        "--method", "diff-instruct")  # fmt: skip
    for result in (refined, distill(tmp_path / "b", *wild, *long)):
        lines = [line for line in result.output.splitlines() if line.startswith("Error")]
        assert (result.exit_code, len(lines)) == (3, 1), result.output
        assert "not finite" in lines[0]
        assert "lower glr" in lines[0]
