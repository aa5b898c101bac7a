"""A pickle for another program names that program's classes and loads without anything of ours.

The program is a stand-in: modules with the names, whose classes say what the program's own use of
their objects. A process of its own unpickles with Python's pickle.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import checkpoints
import students
import teachers
from checkpoints import Program
from students import originals
from students.adapters import one_step
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator
from students.stylegan3 import generator as stylegan3
from students.stylegan_xl import generator as stylegan_xl

# The attributes that the classes of the programs use, constructor and forward pass together.
NETWORKS = {
    "Conv2dLayer": "act_gain activation bias conv_clamp down padding resample_filter up weight "
    "weight_gain",
    "Discriminator": "b4 block_resolutions c_dim img_channels img_resolution img_resolution_log2",
    "DiscriminatorBlock": "architecture channels_last conv0 conv1 first_layer_idx img_channels "
    "in_channels num_layers resample_filter resolution use_fp16",
    "DiscriminatorEpilogue": "architecture cmap_dim conv fc img_channels in_channels mbstd out "
    "resolution",
    "FullyConnectedLayer": "activation bias bias_gain weight weight_gain",
    "Generator": "c_dim img_channels img_resolution mapping num_ws synthesis w_dim z_dim",
    "MappingNetwork": "c_dim num_layers num_ws w_avg_beta w_dim z_dim",
    "MinibatchStdLayer": "group_size num_channels",
    "SynthesisBlock": "architecture channels_last conv1 img_channels in_channels is_last num_conv "
    "num_torgb resample_filter resolution use_fp16 w_dim",
    "SynthesisLayer": "act_gain activation affine bias conv_clamp padding resample_filter "
    "resolution up use_noise weight",
    "SynthesisNetwork": "b4 block_resolutions img_channels img_resolution img_resolution_log2 "
    "num_ws w_dim",
    "ToRGBLayer": "affine bias conv_clamp weight weight_gain",
}
WIDTHS = " in_channels out_channels"
STAND_IN = {
    "networks": {
        **NETWORKS,
        "Conv2d": "bias down fused_resample in_channels out_channels resample_filter up weight",
        "DhariwalUNet": "dec enc label_dropout map_augment map_label map_layer0 map_layer1 "
        "map_noise out_conv out_norm",
        "EDMPrecond": "img_channels img_resolution label_dim model sigma_data sigma_max sigma_min "
        "use_fp16",
        "GroupNorm": "bias eps num_groups weight",
        "Linear": "bias in_features out_features weight",
        "PositionalEmbedding": "endpoint max_positions num_channels",
        "SongUNet": "dec enc label_dropout map_augment map_label map_layer0 map_layer1 map_noise",
        "UNetBlock": "adaptive_scale affine conv0 conv1 dropout emb_channels in_channels norm0 "
        "norm1 num_heads out_channels skip skip_scale",
    },
    "networks_stylegan2": {
        **NETWORKS,
        "Conv2dLayer": NETWORKS["Conv2dLayer"] + WIDTHS,
        "FullyConnectedLayer": NETWORKS["FullyConnectedLayer"] + " in_features out_features",
        "SynthesisBlock": NETWORKS["SynthesisBlock"] + " fused_modconv_default",
        "SynthesisLayer": NETWORKS["SynthesisLayer"] + WIDTHS + " w_dim",
        "SynthesisNetwork": NETWORKS["SynthesisNetwork"] + " num_fp16_res",
        "ToRGBLayer": NETWORKS["ToRGBLayer"] + WIDTHS + " w_dim",
    },
    "networks_stylegan3": {
        "FullyConnectedLayer": "activation bias bias_gain in_features out_features weight "
        "weight_gain",
        "Generator": NETWORKS["Generator"],
        "MappingNetwork": NETWORKS["MappingNetwork"] + " embed w_avg",
        "SynthesisInput": "affine bandwidth channels freqs phases sampling_rate size transform "
        "w_dim weight",
        "SynthesisLayer": "affine bias conv_clamp conv_kernel down_factor down_filter down_radial "
        "down_taps in_channels in_cutoff in_half_width in_sampling_rate in_size "
        "is_critically_sampled is_torgb magnitude_ema magnitude_ema_beta out_channels out_cutoff "
        "out_half_width out_sampling_rate out_size padding tmp_sampling_rate up_factor up_filter "
        "up_taps use_fp16 w_dim weight",
        "SynthesisNetwork": "img_channels img_resolution input layer_names margin_size "
        "num_critical num_fp16_res num_layers num_ws output_scale w_dim",
    },
}
LOADER = """
import json, pickle, sys
from pathlib import Path
import torch
folder, *ours = sys.argv[1:]
sys.modules.update(dict.fromkeys(ours))  # to import one of these is an error
sys.path.insert(0, folder)

def plain(value):
    return value.tolist() if hasattr(value, "tolist") else value

found = {}
for path in sorted(Path(folder).glob("*.pkl")):
    with open(path, "rb") as file:
        data = pickle.load(file)
    for key, network in data.items():
        if not isinstance(network, torch.nn.Module):
            continue
        parts = dict(network.named_modules())
        found[f"{path.stem} {key}"] = {
            "class": f"{type(network).__module__}.{type(network).__name__}",
            "lacks": [f"{type(part).__name__} {name}: {used}" for name, part in parts.items()
                      for used in getattr(part, "uses", ()) if not hasattr(part, used)],
            "call": plain(network.__dict__.get("_init_kwargs")),
            "ends": sum(float(tensor.double().sum()) for tensor in network.state_dict().values()),
            "parts": {name: {k: plain(v) for k, v in vars(part).items() if k[0] != "_"}
                      for name, part in parts.items()},
        }
print(json.dumps(found, default=str))
"""
SIZES: Any = {"z_dim": 5, "c_dim": 2, "w_dim": 6, "img_resolution": 8, "img_channels": 2}
WIDTH: Any = {"channel_base": 64, "channel_max": 6}


def write_student(path: Path) -> None:
    """A file with G, D and G_ema as another program's text would describe them."""
    records = {}
    for name in ("G", "G_ema"):
        network = Generator(**SIZES, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=WIDTH)
        records[name] = checkpoints.describe(network.eval(), source="class Generator: ...")
    discriminator = Discriminator(
        **{name: SIZES[name] for name in ("c_dim", "img_resolution", "img_channels")}, **WIDTH
    )
    records["D"] = checkpoints.describe(discriminator.eval(), source="class Discriminator: ...")
    checkpoints.write({**records, "training_set_kwargs": {"path": "x.zip"}}, path)


def write_stylegan3(path: Path) -> None:
    network = stylegan3.Generator(**{**SIZES, "img_resolution": 16}, **WIDTH, num_layers=6)
    checkpoints.write({"G_ema": checkpoints.describe(network.eval(), source="pass")}, path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Path:
    """Folder of what export wrote for each program, and of the sources."""
    from click.testing import CliRunner

    from refine import main

    folder = tmp_path_factory.mktemp("exported")
    (folder / "sources").mkdir()
    write_student(folder / "sources" / "a.pkl")
    write_stylegan3(folder / "sources" / "three.pkl")
    for program, source, name in (
        ("stylegan2-ada", folder / "sources" / "a.pkl", "ada.pkl"),
        ("stylegan3", folder / "sources" / "a.pkl", "two_of_three.pkl"),
        ("stylegan3", folder / "sources" / "three.pkl", "three.pkl"),
        ("edm", files / "classes.pkl", "edm.pkl"),
    ):
        arguments = ["export", str(source), "--out", str(folder / name), "--for", program]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def unpickled(exported: Path) -> dict[str, Any]:
    """What Python's pickle makes of the files where the stand-in is, and nothing of ours."""
    (exported / "training").mkdir()
    (exported / "training" / "__init__.py").touch()
    for module, classes in STAND_IN.items():
        text = [
            f"class {name}(torch.nn.Module):\n    uses = {uses.split()}\n"
            for name, uses in classes.items()
        ]
        (exported / "training" / f"{module}.py").write_text("import torch\n" + "\n".join(text))
    ours = ["refine", "refine_commands", "refine_demo", "students", "teachers", "refiners"]
    ours += ["metrics", "checkpoints", "stylegan_ops", "image_sets", "roles"]
    command = [sys.executable, "-I", "-c", LOADER, str(exported), *ours]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_objects_are_of_the_programs_classes_and_have_all_that_these_use(unpickled):
    assert {key: found["class"] for key, found in unpickled.items()} == {
        "ada G": "training.networks.Generator",
        "ada G_ema": "training.networks.Generator",
        "ada D": "training.networks.Discriminator",
        "two_of_three G": "training.networks_stylegan2.Generator",
        "two_of_three G_ema": "training.networks_stylegan2.Generator",
        "two_of_three D": "training.networks_stylegan2.Discriminator",
        "three G": "training.networks_stylegan3.Generator",
        "three G_ema": "training.networks_stylegan3.Generator",
        "three D": "torch.nn.modules.linear.Identity",
        "edm ema": "training.networks.EDMPrecond",
    }
    assert [found["lacks"] for found in unpickled.values()] == [[]] * len(unpickled)


def test_derived_attributes_have_the_programs_values(unpickled):
    parts = unpickled["two_of_three G_ema"]["parts"]
    blocks = [parts["synthesis.b4"], parts["synthesis.b8"]]
    assert [block["is_last"] for block in blocks] == [False, True]
    assert [(block["w_dim"], block["img_channels"]) for block in blocks] == [(6, 2)] * 2
    assert parts["synthesis"]["img_resolution_log2"] == 3
    assert parts["synthesis.b8.conv0"]["act_gain"] == pytest.approx(2**0.5)
    assert (parts["mapping.embed"]["in_features"], parts["mapping.embed"]["out_features"]) == (2, 6)
    discriminator = unpickled["ada D"]["parts"]
    # From the image down: fromrgb, conv0, conv1 and skip.
    assert (discriminator["b8"]["first_layer_idx"], discriminator["b8"]["num_layers"]) == (0, 4)
    three = unpickled["three G_ema"]["parts"]
    layers = [three[f"synthesis.{name}"] for name in three["synthesis"]["layer_names"]]
    assert (three["synthesis"]["num_layers"], three["synthesis"]["num_critical"]) == (6, 2)
    assert three["synthesis.input"]["size"] == layers[0]["in_size"] == [36, 36]
    for layer in layers:
        up = 1 if layer["is_torgb"] else 2
        rates = [layer["in_sampling_rate"], layer["out_sampling_rate"]]
        assert layer["tmp_sampling_rate"] == up * max(rates) == rates[0] * layer["up_factor"]
        assert layer["conv_kernel"] == (1 if layer["is_torgb"] else 3)
        assert layer["up_taps"] == (1 if layer["is_torgb"] else 6 * layer["up_factor"])


def test_the_recorded_calls_say_what_the_programs_default_otherwise(unpickled):
    flat, nested = unpickled["two_of_three G"]["call"], unpickled["ada G"]["call"]
    assert "synthesis_kwargs" not in flat
    assert (flat["num_fp16_res"], flat["conv_clamp"], flat["channel_max"]) == (0, None, 6)
    assert flat["mapping_kwargs"]["w_avg_beta"] == 0.995
    assert nested["synthesis_kwargs"]["channel_max"] == 6


def test_no_text_of_a_program_and_no_name_of_ours_is_in_the_files(exported, unpickled):
    for path in exported.glob("*.pkl"):
        content = path.read_bytes()
        for text in (b"module_src", b"class Generator", b"students.", b"teachers.", b"refine"):
            assert text not in content, path.name


def test_the_weights_are_the_sources_and_ours_reads_them_back(exported, unpickled):
    for name, source in (("ada", "a"), ("two_of_three", "a"), ("three", "three")):
        path = exported / "sources" / f"{source}.pkl"
        for network in ("G", "D", "G_ema") if source == "a" else ("G_ema",):
            before = students.load(path, network=network)
            after = students.load(exported / f"{name}.pkl", network=network)
            ours, theirs = before.state_dict(), after.state_dict()
            assert list(ours) == list(theirs)
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
            total = sum(float(tensor.double().sum()) for tensor in ours.values())
            assert unpickled[f"{name} {network}"]["ends"] == pytest.approx(total)


def test_written_once_more_by_save_or_export_such_a_file_stays_as_it_is(
    exported, refine_py, tmp_path
):
    for name in ("ada", "two_of_three", "three"):
        written = exported / f"{name}.pkl"
        for out, options in (("again.pkl", []), ("for.pkl", ["--for", "stylegan3"])):
            if options and name == "ada":
                continue
            result = refine_py("export", written, "--out", tmp_path / out, *options)
            assert result.exit_code == 0, result.output
            data: Any = checkpoints.read(written)
            again: Any = checkpoints.read(tmp_path / out)
            assert list(data) == list(again)
            assert again["G_ema"].module == data["G_ema"].module


def test_what_carries_no_text_is_written_for_the_program_of_its_kind(exported, refine_py, tmp_path):
    source, out = tmp_path / "net" / "a.safetensors", tmp_path / "a.pkl"
    for first in (exported / "sources" / "three.pkl", exported / "three.pkl"):
        refine_py("export", first, "--out", source)
        result = refine_py("export", source, "--out", out)
        assert result.exit_code == 0, result.output
        assert out.read_bytes() == (exported / "three.pkl").read_bytes()
    result = refine_py("export", source, "--out", out, "--for", "stylegan3")
    assert "has no D" in result.output


def test_inspect_says_what_each_network_is_and_for_whom_it_was_written(exported, refine_py):
    for name, kind, writer in (
        ("ada", "StyleGAN2-ADA", "stylegan2-ada-pytorch"),
        ("two_of_three", "StyleGAN2", "stylegan3"),
    ):
        found = json.loads(refine_py("inspect", exported / f"{name}.pkl", "--json").output)
        kinds = {key: network["kind"] for key, network in found["networks"].items()}
        assert kinds["G"] == kinds["G_ema"] == f"{kind} generator"
        assert kinds["D"] == f"{kind} discriminator"
        assert found["writer"] == f"stylegan-refiner, for {writer}"


def test_a_one_step_student_keeps_its_noise_level(files, refine_py, tmp_path):
    teacher = teachers.load(files / "classes.pkl")
    source, out = tmp_path / "a.pkl", tmp_path / "b.pkl"
    one_step.save(one_step.OneStep(teacher, sigma_init=1.5), source, like=files / "classes.pkl")
    result = refine_py("export", source, "--out", out, "--for", "edm")
    assert result.exit_code == 0, result.output
    assert one_step.recorded_sigma(out) == 1.5
    data: Any = checkpoints.read(out)
    assert data["ema"].module == "training.networks"


def test_what_carries_a_programs_text_keeps_it_without_for(exported, refine_py, tmp_path):
    out = tmp_path / "a.pkl"
    refine_py("export", exported / "sources" / "a.pkl", "--out", out)
    data: Any = checkpoints.read(out)
    assert data["G_ema"].source == "class Generator: ..."


def test_what_a_program_has_not_is_refused_in_one_line(exported, files, refine_py, tmp_path):
    network = stylegan_xl.Generator(**{**SIZES, "img_resolution": 16}, **WIDTH, num_layers=6)
    with pytest.raises(ValueError, match="stylegan3 has no network such as"):
        originals.describe(network, "stylegan3")
    a, three = exported / "sources" / "a.pkl", exported / "sources" / "three.pkl"
    for source, out, program, message in (
        (three, "b.pkl", "stylegan2-ada", "stylegan2-ada has no network such as students.styleg"),
        (files / "teacher.pkl", "b.pkl", "edm2", "is a network of edm, not edm2"),
        (a, "b.pkl", "edm", "holds a GAN"),
        (a, "b.safetensors", "stylegan2-ada", "end it in .pkl"),
    ):
        result = refine_py("export", source, "--out", tmp_path / out, "--for", program)
        assert result.exit_code == 2 and message in result.output, result.output
        assert len(result.output.strip().splitlines()) == 1
        assert not (tmp_path / out).exists()


def test_a_class_that_no_file_may_name_is_not_written(tmp_path):
    record = checkpoints.describe(
        torch.nn.ReLU(), program=Program("os")
    )  # torch's own classes keep their names
    assert record.module == "torch.nn.modules.activation"

    class System(torch.nn.Module): ...

    with pytest.raises(ValueError, match="cannot be written"):
        checkpoints.write(checkpoints.describe(System(), program=Program("os")), tmp_path / "a.pkl")
