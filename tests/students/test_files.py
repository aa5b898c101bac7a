"""A student written and read back is the same one; what does not fit is refused in one line."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import pytest
import torch

import checkpoints
import students
from checkpoints import Record

LATENTS = torch.randn(3, 5)
LABELS = torch.eye(3)
WAYS: list[dict[str, Any]] = [
    {"architecture": "skip"},
    {"architecture": "resnet", "c_dim": 3},
    {"architecture": "orig", "mapping": {"w_avg_beta": None}},
    {"resample_filter": [1, 2, 3, 4, 4, 3, 2, 1], "conv_clamp": 0.5, "use_noise": False},
    {"z_dim": 4, "mapping": {"num_layers": 0}, "num_fp16_res": 2, "fp16_channels_last": True},
]
DISCRIMINATORS: list[dict[str, Any]] = [
    {"architecture": "skip", "conv_clamp": 0.5, "epilogue_kwargs": {"mbstd_group_size": None}},
    {"architecture": "resnet", "c_dim": 3, "block_kwargs": {"activation": "relu"}},
    {"architecture": "orig", "c_dim": 3, "cmap_dim": 5, "mapping_kwargs": {"num_layers": 1}},
    {"block_kwargs": {"freeze_layers": 2}, "epilogue_kwargs": {"mbstd_num_channels": 0}},
]


def images(generator: Any) -> torch.Tensor:
    z, c = LATENTS[:, : generator.z_dim], LABELS if generator.c_dim else None
    return generator.eval()(z, c, noise_mode="const")


def changed(record: Record, **call: Any) -> Record:
    """The same record with other arguments in its constructor call; None takes one away."""
    kwargs = {**record.init_kwargs, **call}
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    return record.with_state({**record.state, "_init_kwargs": kwargs})


def built(record: Record) -> Any:
    return students.family_of(record).build(record)


@pytest.mark.parametrize("way", WAYS)
def test_a_written_generator_loads_with_the_same_tensors_and_images(make_generator, write, way):
    written = make_generator(**way)
    path = write(G_ema=written)
    loaded = students.load(path)
    ours, theirs = written.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(images(loaded), images(written))
    for name in ("z_dim", "c_dim", "w_dim", "num_ws", "img_resolution", "img_channels"):
        assert getattr(loaded, name) == getattr(written, name)
    order = checkpoints.parameters(cast("Any", checkpoints.read(path))["G_ema"])
    assert [name for name, _ in loaded.named_parameters()] == list(order)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("way", DISCRIMINATORS)
def test_a_written_discriminator_loads_with_the_same_logits(make_discriminator, write, way):
    written = make_discriminator(**way)
    loaded = students.load(write(D=written), network="D")
    x, c = torch.randn(3, 2, 8, 8), LABELS if written.c_dim else None
    assert torch.equal(loaded(x, c), written(x, c))


def test_each_network_of_a_file_is_loaded_by_its_name(make_generator, make_discriminator, write):
    path = write(G=make_generator(), D=make_discriminator(), G_ema=make_generator())
    raw, average = students.load(path, network="G"), students.load(path)
    assert not torch.equal(images(raw), images(average))
    assert students.load(path, network="D")(torch.randn(2, 2, 8, 8)).shape == (2, 1)


def test_a_loaded_student_shares_nothing_with_the_next_load(make_generator, write):
    path = write(G_ema=make_generator())
    first = students.load(path)
    for tensor in first.state_dict().values():
        tensor.zero_()
    assert images(students.load(path)).abs().max() > 0


@pytest.mark.parametrize("way", WAYS)
def test_saving_what_was_loaded_changes_no_byte_of_any_tensor(
    make_generator, make_discriminator, write, tmp_path, way
):
    like = write(G=make_generator(), D=make_discriminator(), G_ema=make_generator(**way))
    out = tmp_path / "out.pkl"
    students.save(students.load(like), out, like=like)
    before, after = (cast("Any", checkpoints.read(path)) for path in (like, out))
    assert list(before) == list(after)
    for name in before:
        ours, theirs = checkpoints.tensors(before[name]), checkpoints.tensors(after[name])
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert before[name].init_kwargs == after[name].init_kwargs
    assert torch.equal(images(students.load(out)), images(students.load(like)))


def test_saving_a_changed_student_changes_its_network_alone(
    make_generator, make_discriminator, write, tmp_path
):
    like = write(G=make_generator(), D=make_discriminator(), G_ema=make_generator())
    student = students.load(like).train().requires_grad_(True)
    student(LATENTS).sum().backward()
    torch.optim.SGD(student.parameters(), lr=0.01).step()
    student, out = student.double(), tmp_path / "out.pkl"
    students.save(student, out, like=like)
    assert student.training and all(p.requires_grad for p in student.parameters())
    before, after = (cast("Any", checkpoints.read(path)) for path in (like, out))
    for name in ("G", "D"):
        ours, theirs = checkpoints.tensors(before[name]), checkpoints.tensors(after[name])
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    loaded = students.load(out)
    for key, value in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.float())
    assert not torch.equal(images(loaded), images(students.load(like)))
    saved = checkpoints.tensors(after["G_ema"]).values()
    assert {t.dtype for t in saved} == {torch.float32}
    assert not any(t.requires_grad for t in saved)
    assert after["G_ema"].state["training"] is False


def test_frozen_layers_that_are_buffers_load_and_stay_buffers(
    make_discriminator, write, record_of, tmp_path
):
    written = make_discriminator(block_kwargs={"freeze_layers": 1})
    record = record_of(written)
    fromrgb = record.modules["b8"].modules["fromrgb"].state
    for name in ("weight", "bias"):
        fromrgb["_buffers"][name] = fromrgb["_parameters"].pop(name).detach()
    like, out = write(D=record), tmp_path / "out.pkl"
    loaded = students.load(like, network="D")
    x = torch.randn(2, 2, 8, 8)
    assert torch.equal(loaded(x), written(x))
    for ours, theirs in (
        (loaded.named_parameters(), checkpoints.parameters(record)),
        (loaded.named_buffers(), checkpoints.buffers(record)),
    ):
        assert [name for name, _ in ours] == list(theirs)
    students.save(loaded, out, like=like, network="D")
    buffers = checkpoints.buffers(cast("Any", checkpoints.read(out))["D"])
    assert torch.equal(buffers["b8.fromrgb.weight"], written.b8.fromrgb.weight)


def test_a_stylegan3_repository_file_has_flat_options_and_its_own_defaults(
    make_generator, make_discriminator, record_of
):
    """The two programs' defaults for what a call does not say (their constructors)."""
    call = {"channel_base": 64, "channel_max": 6}
    generator, discriminator = record_of(make_generator()), record_of(make_discriminator())
    nested = changed(generator, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=call)
    short = {"c_dim": 0, "img_resolution": 8, "img_channels": 2, **call}
    plain = discriminator.with_state({**discriminator.state, "_init_kwargs": short})
    assert built(nested).mapping.w_avg_beta == 0.995
    for block in (built(nested).synthesis.b8, built(plain).b8):
        assert (block.use_fp16, block.conv0.conv_clamp) == (False, None)

    generator.modules["synthesis"].modules["b4"].state["fused_modconv_default"] = "inference_only"
    kwargs = {"fused_modconv_default": "inference_only", "synthesis_kwargs": None, **call}
    flat = changed(generator, mapping_kwargs={"num_layers": 2}, **kwargs)
    discriminator.modules["b4"].modules["out"].state["in_features"] = 6
    assert built(flat).mapping.w_avg_beta == 0.998
    for block in (built(flat).synthesis.b8, built(plain).b8):
        assert (block.use_fp16, block.conv0.conv_clamp) == (True, 256)
    # What is said counts, whoever wrote it.
    said = built(changed(flat, conv_clamp=7.0, num_fp16_res=0, mapping_kwargs={"w_avg_beta": 0.5}))
    assert said.mapping.w_avg_beta == 0.5
    assert (said.synthesis.b8.use_fp16, said.synthesis.b8.conv0.conv_clamp) == (False, 7.0)


def test_layers_that_do_not_resample_have_the_default_filter(make_generator, make_discriminator):
    """As in the originals' constructors, so that their files of other filters fit."""
    long = [1, 2, 3, 4, 4, 3, 2, 1]
    networks = {
        "G": make_generator(architecture="resnet", resample_filter=long),
        "D": make_discriminator(block_kwargs={"resample_filter": long}),
    }
    filters = {
        f"{network}.{name.removesuffix('.resample_filter')}"
        for network, module in networks.items()
        for name, buffer in module.named_buffers()
        if name.endswith("resample_filter") and buffer.shape == (8,)
    }
    resampling = {"synthesis.b4", "synthesis.b8", "synthesis.b8.conv0", "synthesis.b8.skip"}
    expected = {f"G.{name}" for name in resampling} | {"D.b8", "D.b8.conv1", "D.b8.skip"}
    assert filters == expected


def test_a_call_with_positional_sizes_is_understood(make_generator, record_of, write):
    written = make_generator()
    record = record_of(written)
    names = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    sizes = tuple(record.init_kwargs[name] for name in names)
    record = changed(record, **dict.fromkeys(names))
    record.state["_init_args"] = sizes
    assert torch.equal(images(students.load(write(G_ema=record))), images(written))
    record.state["_init_args"] = (*sizes, {})
    with pytest.raises(ValueError, match="6 positional arguments"):
        students.load(write(G_ema=record))


@pytest.mark.parametrize(
    ("network", "call", "message"),
    [
        ("G_ema", {"img_resolution": 2**30}, "img_resolution is 1073741824; allowed: a whole"),
        ("G_ema", {"img_resolution": 12}, "img_resolution is 12; allowed: powers of two"),
        ("G_ema", {"img_resolution": -8}, "img_resolution is -8"),
        ("G_ema", {"img_resolution": "8"}, "img_resolution is '8'"),
        ("G_ema", {"img_resolution": 8.0}, "img_resolution is 8.0"),
        ("G_ema", {"img_resolution": math.nan}, "img_resolution is nan"),
        ("G_ema", {"img_resolution": 10**100}, "img_resolution is a whole number of 333 bits"),
        ("G_ema", {"img_resolution": 4}, "const is|is unknown"),
        ("G_ema", {"img_channels": True}, "img_channels is True"),
        ("G_ema", {"z_dim": None}, "constructor call lacks z_dim"),
        ("G_ema", {"w_dim": 2**16}, "instead of"),
        ("G_ema", {"c_dim": 2}, "mapping.embed.weight is missing"),
        ("G_ema", {"attention": 1}, "constructor call has unknown options: 'attention'"),
        ("G_ema", {"mapping_kwargs": 3}, "mapping_kwargs is 3; it must be a dict"),
        ("G_ema", {"mapping_kwargs": {"num_layers": 10**9}}, "mapping_kwargs: num_layers is"),
        ("G_ema", {"mapping_kwargs": {"depth": 1}}, "mapping_kwargs has unknown options: 'depth'"),
        ("G_ema", {"mapping_kwargs": {1: 1}}, "mapping_kwargs has unknown options: 1"),
        ("G_ema", {"mapping_kwargs": {"lr_multiplier": 0}}, "lr_multiplier is 0"),
        ("G_ema", {"mapping_kwargs": {"activation": "gelu"}}, "activation is 'gelu'; allowed: lin"),
        ("G_ema", {"synthesis_kwargs": {"conv_clamp": "256"}}, "conv_clamp is '256'"),
        ("G_ema", {"synthesis_kwargs": {"conv_clamp": -1}}, "conv_clamp is -1"),
        ("G_ema", {"synthesis_kwargs": {"conv_clamp": math.nan}}, "conv_clamp is nan"),
        ("G_ema", {"synthesis_kwargs": {"architecture": ["skip"]}}, "architecture is a list of 1"),
        ("G_ema", {"synthesis_kwargs": {"use_noise": "no"}}, "use_noise is 'no'"),
        ("G_ema", {"synthesis_kwargs": {"kernel_size": 2}}, "kernel_size is 2; it must be odd"),
        ("G_ema", {"synthesis_kwargs": {"channel_base": 1}}, "channel_base is 1"),
        ("G_ema", {"synthesis_kwargs": {"resample_filter": [1] * 10**5}}, "list of 100000 items"),
        ("G_ema", {"synthesis_kwargs": {"resample_filter": [1, -1]}}, "resample_filter is"),
        ("G_ema", {"synthesis_kwargs": {"resample_filter": [[1, 2], [3]]}}, "resample_filter is"),
        ("G_ema", {"synthesis_kwargs": {"resample_filter": [1e300]}}, "resample_filter is"),
        ("G_ema", {"synthesis_kwargs": {"resample_filter": ["1"]}}, "resample_filter is"),
        ("D", {"architecture": "unet"}, "architecture is 'unet'"),
        ("D", {"cmap_dim": 0}, "cmap_dim is 0"),
        ("D", {"mapping_kwargs": {"w_avg_beta": 0.5}}, "unknown options: 'w_avg_beta'"),
        ("D", {"epilogue_kwargs": {"mbstd_group_size": 0}}, "mbstd_group_size is 0"),
        ("D", {"epilogue_kwargs": {"mbstd_num_channels": 5}}, "it must divide 6 channels"),
        ("D", {"block_kwargs": {"freeze_layers": "all"}}, "freeze_layers is 'all'"),
        ("D", {"block_kwargs": []}, "block_kwargs is a list of 0 items"),
    ],
)
def test_an_option_that_makes_no_network_is_named(
    make_generator, make_discriminator, record_of, write, network, call, message
):
    record = record_of(make_generator() if network == "G_ema" else make_discriminator())
    with pytest.raises(ValueError, match=message) as caught:
        students.load(write(**{network: changed(record, **call)}), network=network)
    assert f"network {network}: " in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["_parameters"].pop("bias"), "b4.conv1.bias is missing"),
        (
            lambda t: t["_parameters"].update(bias=torch.nn.Parameter(torch.zeros(7))),
            r"b4.conv1.bias is \[7\] instead of \[6\]",
        ),
        (lambda t: t["_buffers"].update(extra=torch.zeros(2)), "b4.conv1.extra is unknown"),
        (lambda t: t["_parameters"]["bias"].fill_(math.inf), "not finite: synthesis.b4.conv1.bias"),
        (lambda t: t["_buffers"]["noise_const"].fill_(math.nan), "b4.conv1.noise_const"),
    ],
)
def test_a_tensor_that_is_missing_extra_misshaped_or_not_finite_is_named(
    make_generator, record_of, write, change, message
):
    record = record_of(make_generator())
    block = record.modules["synthesis"].modules["b4"]
    change(block.modules["conv1"].state)
    with pytest.raises(ValueError, match=message):
        students.load(write(G_ema=record))


def test_a_file_without_the_network_says_what_it_has(make_generator, write, record_of):
    path = write(G=make_generator(), augment_pipe=None)
    with pytest.raises(ValueError, match="has no network G_ema; it has G"):
        students.load(path)
    with pytest.raises(
        ValueError, match="holds Generator, a denoiser, and no G_ema: it is a teacher"
    ):
        students.load(write(ema=make_generator()))
    with pytest.raises(ValueError, match="holds no network; a StyleGAN pickle is a dict"):
        students.load(write(training_set_kwargs={}))
    record = record_of(make_generator())
    other = Record("Painter", (), {}, record.state, source="")
    message = "class 'Painter' with the parts 'synthesis, mapping' cannot be loaded; known: StyleG"
    with pytest.raises(ValueError, match=message):
        students.load(write(G_ema=other))
    with pytest.raises(OSError, match="nowhere"):
        students.load("nowhere.pkl")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_saved(make_generator, write, tmp_path, bad):
    like, out = write(G_ema=make_generator()), tmp_path / "out.pkl"
    student = students.load(like)
    student.get_parameter("mapping.fc1.weight")[0, 0] = bad
    with pytest.raises(ValueError, match=r"not finite: mapping\.fc1\.weight"):
        students.save(student, out, like=like)
    assert not out.exists()


def test_a_student_that_does_not_fit_the_file_is_not_saved(make_generator, write, tmp_path):
    like, out = write(G_ema=make_generator()), tmp_path / "out.pkl"
    out.write_bytes(b"kept")
    smaller = copy.deepcopy(students.load(like))
    del smaller.get_submodule("synthesis.b8").torgb
    for student, message in (
        (make_generator(c_dim=3), r"mapping\.embed\.weight is unknown"),
        (make_generator(z_dim=6), r"mapping\.fc0\.weight is \[4, 6\] instead of \[4, 5\]"),
        (smaller, r"synthesis\.b8\.torgb\.weight is missing"),
        (torch.nn.Linear(2, 2), "is missing; .* and .* more"),
    ):
        with pytest.raises(ValueError, match=message):
            students.save(student, out, like=like)
    with pytest.raises(ValueError, match="has no network G; it has G_ema"):
        students.save(make_generator(), out, like=like, network="G")
    assert out.read_bytes() == b"kept"
