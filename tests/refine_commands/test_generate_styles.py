"""`refine.py generate`: classes by image, ws of a file, mixed styles, a loop through seeds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import students
from students.styles import read_ws, walk, ws_of


def picture(path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def drawn(files, refine_py, tmp_path):
    """Call generate on the student of 2 classes, 32 x 32, in colour."""

    def call(*options, network="large.pkl"):
        given = ("--network", files / network, "--outdir", tmp_path)
        return refine_py("generate", *given, *options)

    return call


def expected(student, seed: int, label: int, **options) -> np.ndarray:
    (image,) = students.generate(student, [seed], label=label, **options)
    return image.transpose(1, 2, 0)


def test_each_seed_has_a_class_of_its_own(drawn, files, tmp_path):
    result = drawn("--seeds", "3-5", "--class", "0-1,0")
    assert result.exit_code == 0, result.output
    student = students.load(files / "large.pkl")
    for seed, label in ((3, 0), (4, 1), (5, 0)):
        assert np.array_equal(
            picture(tmp_path / f"seed{seed:04d}.png"), expected(student, seed, label)
        )
    assert "2 classes for 3 seeds" in drawn("--seeds", "3-5", "--class", "0-1").stderr
    assert "the class is 2; this student takes 0 to 1" in drawn("--class", "2").stderr
    assert "--class is 'cat'; allowed are numbers" in drawn("--class", "cat").stderr
    one = drawn("--class", "0,1", "--seeds", "0,1", network="classes.pkl")
    assert "a denoiser makes images of one --class at a time" in one.stderr


@pytest.mark.parametrize("form", ["npz", "npy", "pt", "dict.pt", "short.npz"])
def test_ws_of_a_file_make_the_images_of_their_seeds(form, drawn, files, tmp_path):
    student = students.load(files / "large.pkl")
    ws = ws_of(student, [3, 8], label=1, truncation_psi=0.7)
    path = tmp_path / f"w.{form}"
    if form == "npz":
        np.savez(path, w=ws.numpy())
    elif form == "npy":
        np.save(path, ws.double().numpy())
    elif form == "short.npz":  # of every layer the same, as before the layers were told apart
        np.savez(path, w=ws[:, 0].numpy())
    else:
        torch.save({"latent": ws} if "dict" in form else ws, path)
    result = drawn("--projected-w", path, "--json")
    assert result.exit_code == 0, result.output
    names = [image["file"] for image in json.loads(result.stdout)["images"]]
    assert names == [str(tmp_path / f"proj000{i}.png") for i in (0, 1)]
    for name, seed in zip(names, (3, 8), strict=True):
        same = expected(student, seed, 1, truncation_psi=0.7)
        assert np.abs(picture(name).astype(int) - same).max() <= 1


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.npz", lambda p: np.savez(p, mu=np.zeros(3)), "holds no ws; they are called w, ws"),
        ("a.npy", lambda p: np.save(p, np.zeros([1, 3, 8])), r"shape \[1, 3, 8\]; this network"),
        ("a.npy", lambda p: np.save(p, np.zeros(3, int)), "no array of floating-point numbers"),
        ("a.npy", lambda p: np.save(p, np.full([1, 8], np.nan)), "not finite"),
        ("a.npy", lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\xff"), "holds no array of float"),
        ("a.npy", lambda p: np.save(p, np.array({"w": 1})), "no array of floating"),
        ("a.npz", lambda p: p.write_bytes(b"PK"), "not a readable .npz file"),
        ("a.pt", lambda p: torch.save([1], p), "holds no ws; give them as"),
    ],
)
def test_a_file_without_ws_is_refused_in_words(name, make, message, files, tmp_path):
    make(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read_ws(tmp_path / name, students.load(files / "large.pkl"))


def test_a_header_that_lies_takes_no_memory(files, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros([1, 8]))
    plain = (tmp_path / "a.npy").read_bytes()
    huge = plain.replace(b"(1, 8), }         ", b"(999999999, 8), } ")
    assert len(huge) == len(plain) and huge != plain
    (tmp_path / "a.npy").write_bytes(huge)
    with pytest.raises(ValueError, match=r"float64 \[999999999, 8\] in 64 bytes"):
        read_ws(tmp_path / "a.npy", students.load(files / "large.pkl"))


def test_mixed_styles_are_rows_with_the_columns_ws(drawn, files, tmp_path):
    result = drawn("--rows", "1,2", "--cols", "2,5,6", "--styles", "0-1", "--class", "1")
    assert result.exit_code == 0, result.output
    student = students.load(files / "large.pkl")
    ws = dict(zip((1, 2, 5, 6), ws_of(student, [1, 2, 5, 6], label=1), strict=True))
    mixture = ws[1].clone()
    mixture[:2] = ws[5][:2]
    x = student.get_submodule("synthesis")(mixture[None], noise_mode="const")[0]
    x = (x * 127.5 + 128).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    assert np.array_equal(picture(tmp_path / "1-5.png"), x)
    # A seed's styles in its own image change nothing.
    assert np.array_equal(picture(tmp_path / "2-2.png"), expected(student, 2, 1))
    assert picture(tmp_path / "grid.png").shape == (64, 96, 3)
    refused = drawn("--rows", "1", "--cols", "2", "--styles", "0-30")
    assert "a style is 30; this network has the styles 0 to" in refused.stderr
    assert "or --rows and --cols together" in drawn("--rows", "1").stderr
    assert "which has no --steps" in drawn("--rows", "1", "--cols", "2", "--steps", "3").stderr


@pytest.mark.parametrize("ending", ["webp", "gif"])
def test_a_loop_goes_through_the_images_of_the_seeds(ending, drawn, files, tmp_path):
    video = tmp_path / f"walk.{ending}"
    result = drawn("--seeds", "1,4,6", "--class", "0", "--video", video, "--frames", "4")
    assert result.exit_code == 0, result.output
    with Image.open(video) as moving:
        assert (moving.n_frames, moving.size) == (12, (32, 32))  # pyright: ignore
        moving.seek(4)
        shown = np.asarray(moving.convert("RGB")).astype(int)
    same = picture(tmp_path / "seed0004.png")
    assert np.abs(shown - same).mean() < (2 if ending == "webp" else 16)  # a GIF has 256 colours


def test_a_walk_passes_each_seed_and_closes(files):
    student = students.load(files / "large.pkl")
    images = list(walk(student, [1, 4], 5, label=1))
    assert len(images) == 10
    for i, seed in ((0, 1), (5, 4)):
        assert np.abs(images[i].transpose(1, 2, 0) - expected(student, seed, 1)).max() <= 1
    steps = [
        np.abs(a.astype(int) - b).mean()
        for a, b in zip(images, images[1:] + images[:1], strict=True)
    ]
    assert max(steps) < 3 * np.mean(steps)
    with pytest.raises(ValueError, match="0 seeds and 5 frames"):
        next(walk(student, [], 5))


def test_what_moves_is_refused_before_an_image_is_made(drawn, tmp_path):
    assert "written as .webp or .gif" in drawn("--video", tmp_path / "a.mp4").stderr
    assert "there is no folder" in drawn("--video", tmp_path / "no" / "a.gif").stderr
    assert not list(tmp_path.glob("*.png"))
