"""Reports of other tools' users, recreated; public_reports.md has the table of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import checkpoints
import image_sets
import metrics
import students
from checkpoints import Record
from metrics.sides import open_images
from students import originals
from students.fastgan.generator import FastGANGenerator
from students.foreign import rosinality
from students.stylegan2.generator import Generator


def picture(path: Path, mode: str = "RGB", size: int = 8, level: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), level).convert(mode).save(path)
    return path


def labels(source: Path, dest: Path, **options: Any) -> list[int]:
    found = image_sets.convert(source, dest, **options).labels
    assert found is not None
    return found.tolist()


def listed(folder: Path, text: str | dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = text if isinstance(text, str) else json.dumps(text)
    (folder / "dataset.json").write_text(content)
    return folder


def generator(**options: Any) -> Generator:
    sizes: dict[str, Any] = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 8}
    kinds = {"mapping_kwargs": {"num_layers": 2}, "synthesis_kwargs": {"channel_max": 4}}
    made = Generator(**{**sizes, "img_channels": 3, **kinds, **options})
    return made.eval().requires_grad_(False)


def image(student: Any) -> np.ndarray:
    return next(students.generate(student, [0]))


class TestDataSets:
    def test_stylegan2_ada_pytorch_18_folders_are_classes(self, tmp_path):
        for name in ("cat/0.png", "cat/1.png", "dog/0.png"):
            picture(tmp_path / "set" / name)
        said: list[str] = []
        assert labels(tmp_path / "set", tmp_path / "a.zip", remark=said.append) == [0, 0, 1]
        assert said == ["labels: from folders, 2 classes: 0 cat (2), 1 dog (1)"]

    @pytest.mark.parametrize(
        ("name", "mode", "levels"),
        [("a.png", "RGBA", [90, 90, 90]), ("a.jpg", "CMYK", [90, 90, 90])],
        ids=["stylegan2_ada_pytorch_33", "ilsvrc_cmyk_image_list_1"],
    )
    def test_alpha_and_cmyk_are_refused_with_the_way_and_converted(
        self, name, mode, levels, tmp_path
    ):
        picture(tmp_path / "set" / name, mode)
        with pytest.raises(ValueError, match=f"pixels of the mode {mode}.* --fix rgb converts"):
            image_sets.convert(tmp_path / "set", tmp_path / "a.zip")
        made = image_sets.convert(tmp_path / "set", tmp_path / "a.zip", fix=["rgb"])
        assert np.abs(made[0][0][:, 0, 0].astype(int) - levels).max() <= 2

    def test_stylegan2_ada_pytorch_126_a_last_comma_is_shown(self, tmp_path):
        picture(tmp_path / "set/00000/cat.png")
        listed(tmp_path / "set", '{"labels": [["00000/cat.png",1],]}')
        with pytest.raises(ValueError, match=r"dataset.json: not valid JSON: .*line 1 column 33"):
            image_sets.convert(tmp_path / "set", tmp_path / "a.zip")

    def test_stylegan2_ada_pytorch_147_two_labels_of_one_image_are_refused(self, tmp_path):
        for name in ("0.png", "1.png"):
            picture(tmp_path / "set" / name)
        entries = [["0.png", 0], ["0.png", 2], ["1.png", 1]]
        listed(tmp_path / "set", {"labels": entries})
        with pytest.raises(ValueError, match=r"0\.png is listed twice, with the labels 0 and 2"):
            image_sets.convert(tmp_path / "set", tmp_path / "a.zip")
        listed(tmp_path / "set", {"labels": [["0.png", [1, 0, 1]], ["1.png", [0, 1, 0]]]})
        assert labels(tmp_path / "set", tmp_path / "a.zip") == [[1, 0, 1], [0, 1, 0]]

    def test_stylegan3_161_labels_beside_the_images_are_picked_up(self, tmp_path):
        names = ["561462394.png", "638577443.png", "642091536.png", "691798228.png"]
        for name in names:
            picture(tmp_path / "set" / name)
        listed(tmp_path / "set", {"labels": list(map(list, zip(names, [0, 1, 1, 0], strict=True)))})
        assert labels(tmp_path / "set", tmp_path / "a.zip") == [0, 1, 1, 0]

    def test_eps696_stylegan2ada_18_folders_by_number_are_no_classes(self, tmp_path):
        names = ["00000/a.png", "00001/b.png", "00002/c.png"]
        for name in names:
            picture(tmp_path / "set" / name)
        listed(tmp_path / "set", {"labels": list(map(list, zip(names, [1, 0, 1], strict=True)))})
        assert labels(tmp_path / "set", tmp_path / "a.zip") == [1, 0, 1]
        assert labels(tmp_path / "a.zip", tmp_path / "b.zip") == [1, 0, 1]
        assert image_sets.ImageFolder(tmp_path / "b.zip").num_classes == 2

    def test_stylegan2_ada_22_gray_stays_gray(self, tmp_path):
        picture(tmp_path / "set/0.png", "L")
        made = image_sets.convert(tmp_path / "set", tmp_path / "a.zip")
        assert made.shape == (1, 8, 8)
        assert made[0][0].max() == made[0][0].min() == 90

    def test_clean_fid_37_endings_in_capitals_count_once(self, tmp_path):
        for name in ("a.JPEG", "b.PNG", "c.Jpg", "d.png"):
            picture(tmp_path / name)
        assert len(image_sets.ImageFolder(tmp_path)) == 4


def mean_colour(images: torch.Tensor) -> torch.Tensor:
    """Features of any size: mean and deviation."""
    x = images.double().flatten(1)
    return torch.stack([x.mean(dim=1), x.std(dim=1)], dim=1)


def noise(folder: Path, size: int, count: int = 40) -> Path:
    folder.mkdir()
    stream = np.random.default_rng(size)
    for i in range(count):
        pixels = stream.integers(0, 256, (size, size, 3), dtype=np.uint8)
        image_sets.save_png(folder / f"{i:02d}.png", pixels)
    return folder


class TestDistances:
    @pytest.mark.parametrize(
        ("mode", "size", "words"),
        [("RGB", 16, "16 x 16 with 3 channels"), ("L", 8, "8 x 8 with 1 channel,")],
        ids=["pytorch_fid_81", "pytorch_fid_35"],
    )
    def test_the_image_of_another_size_or_gray_is_named(self, mode, size, words, tmp_path):
        picture(noise(tmp_path / "set", 8) / "zz.png", mode, size)
        with pytest.raises(ValueError, match=rf"zz\.png: {words}.* but 00\.png is 8 x 8 with 3"):
            metrics.open_reference(tmp_path / "set", mean_colour)

    def test_pytorch_fid_42_a_folder_without_images_is_told(self, tmp_path):
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(ValueError, match=r"0 images, expected 1 to \d+ .*\.jpeg"):
            open_images(tmp_path)

    def test_pytorch_fid_106_a_pickled_dict_in_npy_is_not_run(self, tmp_path):
        statistics: Any = {"mu": np.zeros(3), "sigma": np.eye(3)}
        np.save(tmp_path / "stats.npy", statistics, allow_pickle=True)
        with pytest.raises(ValueError, match=r"not a reference; give an \.npz, \.pkl or \.pt"):
            metrics.open_reference(tmp_path / "stats.npy", mean_colour)

    def test_clean_fid_2_two_folders_of_other_sizes_are_measured(self, tmp_path):
        sides = noise(tmp_path / "small", 8), noise(tmp_path / "large", 16)
        small, large = map(open_images, sides)
        found = metrics.compare(
            small,
            large,
            noise(tmp_path / "real", 12),
            features=mean_colour,
            num_images=40,
            groups=4,
        )
        real, *both = (
            mean_colour(torch.cat(list(open_images(folder).draw(range(40)))))
            for folder in (tmp_path / "real", *sides)
        )
        distances = [metrics.frechet_distance_of_features(side, real) for side in both]
        measured = found["frechet_distance"]
        assert [measured.before, measured.after] == pytest.approx(distances, rel=1e-6)
        assert not metrics.draw_gallery(small, large, found).keys() & {"largest improvements"}


class TestNetworks:
    @pytest.fixture
    def ported(self, tmp_path) -> dict[str, Any]:
        """rosinality's file of a generator, as plain data."""
        rosinality.save(generator(), tmp_path / "a.pt")
        return torch.load(tmp_path / "a.pt", weights_only=True)

    def test_rosinality_176_noises_may_be_missing(self, ported, tmp_path):
        whole = image(students.load(tmp_path / "a.pt"))
        state = {k: v for k, v in ported["g_ema"].items() if not k.startswith("noises.")}
        torch.save(ported | {"g_ema": state}, tmp_path / "b.pt")
        with pytest.warns(UserWarning, match=r"holds no noises"):
            student = students.load(tmp_path / "b.pt")
        assert np.array_equal(image(student), whole)  # a new network's noise has the strength 0

    def test_restyle_encoder_1_the_average_may_be_missing(self, ported, tmp_path):
        torch.save({"g_ema": ported["g_ema"]}, tmp_path / "b.pt")
        student: Any = students.load(tmp_path / "b.pt")
        z = torch.randn(20000, 4)
        mean = student.mapping(z)[:, 0].mean(dim=0)
        torch.testing.assert_close(student.mapping.w_avg, mean, rtol=0, atol=0.05)
        assert student(z[:2], truncation_psi=0.5).shape == (2, 3, 8, 8)

    def test_rosinality_321_without_g_ema_the_line_says_what_there_is(self, ported, tmp_path):
        torch.save({"g": ported["g_ema"]}, tmp_path / "b.pt")
        with pytest.raises(ValueError, match="has no network G_ema; it has G"):
            students.load(tmp_path / "b.pt")
        assert image(students.load(tmp_path / "b.pt", network="G")).shape == (3, 8, 8)

    def test_maua_stylegan2_4_the_number_of_mapping_layers_is_the_file_s(self, ported, tmp_path):
        student: Any = students.load(tmp_path / "a.pt")
        assert student.mapping.num_layers == 2

    def test_pixel2style2pixel_245_other_names_are_told_with_the_way(self, tmp_path):
        names = ("G_mapping.layers.0.weight", "G_synthesis.const", "G_synthesis.to_data.bias")
        torch.save({name: torch.ones(2) for name in names}, tmp_path / "Gs.pth")
        with pytest.raises(ValueError, match=r"holds no network but 3 tensors by name.*--like"):
            students.load(tmp_path / "Gs.pth")

    def test_stylegan_nada_23_a_torch_file_of_a_pickle_s_name_loads(self, ported, tmp_path):
        (tmp_path / "a.pt").rename(tmp_path / "000001.pkl")
        assert image(students.load(tmp_path / "000001.pkl")).shape == (3, 8, 8)

    @pytest.mark.parametrize("page", [b"<!DOCTYPE html>\n", b"\n\n<html>"])
    def test_discofacegan_33_a_web_page_is_no_pickle(self, page, tmp_path):
        (tmp_path / "a.pkl").write_bytes(page)
        with pytest.raises(ValueError, match=rf"is not a network pickle.* {page[:2].hex(' ')}"):
            students.load(tmp_path / "a.pkl")

    def test_projected_gan_105_a_discriminator_of_other_packages_is_left_alone(self, tmp_path):
        wanted = "refers to pg_modules.discriminator.ProjectedDiscriminator, a name"
        module = "pg_modules.discriminator"
        d = Record("ProjectedDiscriminator", None, None, {}, module=module, foreign=wanted)
        data: Any = {"D": d.result(b"\x81", ()), "G_ema": originals.describe(generator())}
        checkpoints.write(data, tmp_path / "best_model.pkl")
        student = students.load(tmp_path / "best_model.pkl")
        students.save(student, tmp_path / "b.pkl", like=tmp_path / "best_model.pkl")
        again: Any = checkpoints.read(tmp_path / "b.pkl")
        assert (again["D"].class_name, again["D"].module) == (d.class_name, module)
        with pytest.raises(checkpoints.UnsafeCheckpoint, match=r"its D .* unsupported kind"):
            students.load(tmp_path / "best_model.pkl", network="D")

    def test_projected_gan_9_fastgan_makes_images_without_truncation(self):
        sizes: dict[str, Any] = {"z_dim": 4, "c_dim": 0, "num_classes": 0, "img_resolution": 32}
        network = FastGANGenerator(**sizes, img_channels=3, ngf=8, kind="lite").eval()
        assert image(network).shape == (3, 32, 32)
        with pytest.raises(ValueError, match="has no truncation"):
            next(students.generate(network, [0], truncation_psi=0.7))
