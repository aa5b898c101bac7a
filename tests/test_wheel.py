"""What `pip install` brings: our names alone, the data beside them, and no harm to a neighbour."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {
    *("refine.py", "refine_commands", "refine_demo", "image_sets", "roles", "checkpoints"),
    *("students", "teachers", "refiners", "metrics", "stylegan_ops"),
}
DATA = {".cpp", ".h", ".jinja", ".npz", ".pkl", ".typed"}
# What installed packages call themselves, or leave behind by mistake, and what stands in the roots
# of checkouts of StyleGAN2-ADA, StyleGAN3, StyleGAN-XL, EDM, EDM2, R3GAN, SiD and rosinality's.
# `metrics` is such a name too, and given.
TAKEN = {
    *("datasets", "evaluate", "transformers", "diffusers", "accelerate", "safetensors", "torch"),
    *("commands", "demo", "utils", "util", "common", "helpers", "tools", "scripts", "src", "lib"),
    *("tests", "test", "testing", "examples", "example", "benchmarks", "docs", "data", "config"),
    *("models", "model", "core", "cli", "types", "layers", "modules", "networks", "losses"),
    *("dnnlib", "torch_utils", "training", "legacy", "train", "train_edm2", "generate", "viz"),
    *("generate_images", "generate_onestep", "dataset_tool", "calc_metrics", "calculate_metrics"),
    *("gen_images", "gen_video", "gen_samplesheet", "gui_utils", "visualizer", "avg_spectra"),
    *("projector", "style_mixing", "fid", "toy_example", "count_flops", "reconstruct_phema"),
    *("pg_modules", "feature_networks", "run_inversion", "run_stylemc", "edm2", "R3GAN"),
    *("distributed", "lpips", "op", "ppl", "swagan", "non_leaking", "prepare_data", "interpolate"),
}
NEIGHBOUR = "def load_dataset(name):\n    return f'the data set {name}'\n"


def pip(*arguments: str | Path, python: Path | None = None) -> subprocess.CompletedProcess[str]:
    where = ["--python", str(python)] if python else []
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *where]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout; built of a copy, since setuptools writes beside what it reads."""
    folder = tmp_path_factory.mktemp("wheel")
    for entry in ROOT.iterdir():
        ignored = shutil.ignore_patterns("__pycache__")
        if entry.is_dir() and (entry.name in OURS or entry.name in ("tests", "benchmarks")):
            shutil.copytree(entry, folder / "source" / entry.name, ignore=ignored)
    for entry in ("refine.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / entry, folder / "source")
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder]
    built = pip("wheel", *options, folder / "source")
    assert built.returncode == 0, built.stderr
    return next(folder.glob("stylegan_refiner-*.whl"))


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A new environment's Python, which also sees what this one has installed, after its own."""
    return new_environment(tmp_path / "environment")


def new_environment(folder: Path) -> Path:
    venv.create(folder, symlinks=True, with_pip=False)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "zz-others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def run(python: Path, text: str, cwd: Path) -> str:
    """What a program prints that runs elsewhere, in the environment."""
    result = subprocess.run(
        [python, "-I", "-c", text], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def top_level(names: list[str]) -> Iterator[str]:
    return (name.partition("/")[0] for name in names)


def test_the_wheel_has_our_names_alone_and_none_that_another_carries(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    found = {name for name in top_level(names) if not name.endswith(".dist-info")}
    assert found == OURS
    assert not {name.removesuffix(".py") for name in found} & TAKEN


def test_the_wheel_has_every_file_of_the_packages(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for name in OURS - {"refine.py"}
        for path in (ROOT / name).rglob("*")
        # What trainings left for the next one is for a checkout alone.
        if path.suffix in {".py", *DATA} and "refine_demo/training" not in path.as_posix()
    }
    assert {"refine_demo/student.pkl", "metrics/report/report.html.jinja"} <= wanted <= names


def test_installed_the_command_refine_works_from_any_folder(
    wheel: Path, python: Path, tmp_path: Path
):
    assert (
        pip("install", "--no-compile", "--no-deps", "--no-index", wheel, python=python).returncode
        == 0
    )

    def refine(*arguments: str) -> str:
        command = [python.with_name("refine"), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared and refine("--version") == f"stylegan-refiner {declared[1]}\n"
    told = " ".join(refine("gan", "--help").split())
    assert "torchrun --nproc_per_node=N -m refine gan" in told
    demo = Path(run(python, "from refine_commands import demo; print(demo.DEMO)", tmp_path))
    assert demo.is_relative_to(python.parent.parent)
    student = str(demo / "student.pkl")
    refine("generate", "--network", student, "--seeds", "0-1", "--outdir", "out", "--device", "cpu")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "seed0000.png",
        "seed0001.png",
    ]


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_installed_beside_datasets_in_either_order_both_work(
    wheel: Path, python: Path, first: str, tmp_path: Path
):
    theirs = tmp_path / "datasets-4.0.0-py3-none-any.whl"
    about = "Metadata-Version: 2.1\nName: datasets\nVersion: 4.0.0\n"
    with zipfile.ZipFile(theirs, "w") as archive:
        archive.writestr("datasets/__init__.py", NEIGHBOUR)
        archive.writestr("datasets/utils/__init__.py", "")
        archive.writestr("datasets-4.0.0.dist-info/METADATA", about)
        archive.writestr(
            "datasets-4.0.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n"
        )
        archive.writestr("datasets-4.0.0.dist-info/RECORD", "datasets/__init__.py,,\n")
    neighbours(wheel, theirs, python, tmp_path, first=first, options=["--no-deps", "--no-index"])
    assert run(python, "import datasets; print(datasets.load_dataset('x'))", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_installed_beside_hugging_faces_datasets_in_either_order_both_work(
    wheel: Path, python: Path, first: str, tmp_path: Path
):
    got = pip("download", "--dest", tmp_path / "got", "datasets", python=python)
    if got.returncode:
        pytest.skip(f"pip cannot get datasets here: {got.stderr.strip().splitlines()[-1]}")
    options = ["--no-index", "--find-links", str(tmp_path / "got")]
    neighbours(wheel, "datasets", python, tmp_path, first=first, options=options)


def neighbours(
    wheel: Path, theirs: Path | str, python: Path, cwd: Path, *, first: str, options: list[str]
) -> None:
    """Install both, import both, uninstall ours, import theirs."""
    install: dict[str, Callable[[], subprocess.CompletedProcess[str]]] = {
        "ours": lambda: pip(
            "install", "--no-compile", "--no-deps", "--no-index", wheel, python=python
        ),
        "theirs": lambda: pip("install", *options, theirs, python=python),
    }
    for name in sorted(install, key=lambda name: name != first):
        done = install[name]()
        assert done.returncode == 0, done.stderr
    both = "import datasets, image_sets, refine; print(datasets.load_dataset.__module__)"
    place = "; print(datasets.__file__, image_sets.__file__, refine.__file__)"
    module, files = run(python, both + place, cwd).splitlines()
    assert module.startswith("datasets")
    assert all(Path(file).is_relative_to(python.parent.parent) for file in files.split())
    assert pip("uninstall", "--yes", "stylegan-refiner", python=python).returncode == 0
    alone = "import datasets, importlib.util as u; print(callable(datasets.load_dataset),"
    alone += " u.find_spec('refine'), u.find_spec('image_sets'))"
    assert run(python, alone, cwd) == "True None None"
