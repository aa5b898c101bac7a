"""Laws of the StyleGAN2 generator: what its options mean for its images."""

from __future__ import annotations

import pytest
import torch

import students

WAYS = [
    {"architecture": "skip"},
    {"architecture": "resnet"},
    {"architecture": "orig"},
    {"resample_filter": [1, 2, 3, 4, 4, 3, 2, 1], "activation": "tanh"},
    {"resample_filter": [[1, 2], [1, 1]], "kernel_size": 1, "use_noise": False},
    {"conv_clamp": 0.5},
]


def latents(n: int = 3, z_dim: int = 5) -> torch.Tensor:
    return torch.randn(n, z_dim)


def one_hot(*labels: int, c_dim: int = 3) -> torch.Tensor:
    return torch.eye(c_dim)[list(labels)]


@pytest.mark.parametrize("way", WAYS)
def test_each_image_depends_on_its_own_latent_alone(make_generator, way):
    generator = make_generator(**way)
    z = latents()
    images = generator(z, noise_mode="const")
    assert images.shape == (3, 2, 8, 8)
    alone = torch.cat([generator(row[None], noise_mode="const") for row in z])
    torch.testing.assert_close(images, alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(images[0], images[1], atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_of_the_images_reaches_every_parameter_and_the_latent(make_generator, way):
    generator = make_generator(**way).requires_grad_(True)
    z = latents().requires_grad_()
    generator(z).square().sum().backward()
    tensors = {**dict(generator.named_parameters()), "z": z}
    dead = [name for name, tensor in tensors.items() if tensor.grad is None]
    dead += [n for n, t in tensors.items() if t.grad is not None and not t.grad.any()]
    assert dead == []


def test_the_scale_of_a_latent_does_not_matter(make_generator):
    generator, z = make_generator(), latents()
    torch.testing.assert_close(generator.mapping(z), generator.mapping(50 * z))


def test_no_truncation_at_psi_1_and_the_image_of_w_avg_at_psi_0(make_generator):
    generator, z = make_generator(), latents()
    full = generator(z, noise_mode="const")
    assert torch.equal(generator(z, truncation_psi=1, noise_mode="const"), full)
    mean = generator.get_buffer("mapping.w_avg").expand(1, generator.num_ws, -1)
    expected = generator.synthesis(mean, noise_mode="const").expand(3, -1, -1, -1)
    torch.testing.assert_close(generator(z, truncation_psi=0, noise_mode="const"), expected)


def test_truncation_is_linear_in_psi_and_stops_at_the_cutoff(make_generator):
    mapping = make_generator().mapping
    z = latents()
    ws = mapping(z)
    expected = mapping.w_avg + 0.3 * (ws - mapping.w_avg)
    torch.testing.assert_close(mapping(z, truncation_psi=0.3), expected)
    cut = mapping(z, truncation_psi=0.3, truncation_cutoff=2)
    torch.testing.assert_close(cut[:, :2], expected[:, :2])
    assert torch.equal(cut[:, 2:], ws[:, 2:])
    assert torch.equal(mapping(z, truncation_psi=0.3, truncation_cutoff=0), ws)


def test_a_network_without_w_avg_has_no_truncation(make_generator):
    generator = make_generator(mapping={"w_avg_beta": None})
    assert "mapping.w_avg" not in generator.state_dict()
    assert generator(latents()).isfinite().all()
    with pytest.raises(ValueError, match="keeps no w_avg, so truncation_psi must be 1"):
        generator(latents(), truncation_psi=0.7)


def test_w_avg_follows_the_batch_in_training_mode_only(make_generator):
    generator, z = make_generator(mapping={"w_avg_beta": 0.75}), latents()
    before = generator.get_buffer("mapping.w_avg").clone()
    mean = generator.mapping(z)[:, 0].mean(dim=0)
    assert torch.equal(generator.get_buffer("mapping.w_avg"), before)
    generator.train()(z)
    torch.testing.assert_close(generator.get_buffer("mapping.w_avg"), 0.75 * before + 0.25 * mean)


def test_noise_is_drawn_kept_or_absent_as_its_mode_says(make_generator):
    generator, z = make_generator(), latents()
    constant = generator(z, noise_mode="const")
    assert torch.equal(constant, generator(z, noise_mode="const"))
    torch.manual_seed(1)
    first, second = generator(z), generator(z)
    torch.manual_seed(1)
    assert torch.equal(first, generator(z))
    assert not torch.allclose(first, second, atol=1e-3)
    none = generator(z, noise_mode="none")
    assert not torch.allclose(none, constant, atol=1e-3)
    for name, tensor in generator.state_dict().items():
        if name.endswith("noise_strength"):
            tensor.zero_()
    for mode in students.NOISE_MODES:
        torch.testing.assert_close(generator(z, noise_mode=mode), none)
    with pytest.raises(ValueError, match="noise_mode is 'off'; allowed are random, const, none"):
        generator(z, noise_mode="off")


def test_random_noise_differs_between_the_images_of_a_batch(make_generator):
    generator = make_generator()
    images = generator(latents(1).expand(2, -1))
    assert not torch.allclose(images[0], images[1], atol=1e-3)


@pytest.mark.parametrize("mapping", [{}, {"embed_features": 7, "layer_features": 6}])
def test_the_label_of_a_conditional_student_matters(make_generator, mapping):
    generator, z = make_generator(c_dim=3, mapping=mapping), latents(1)
    images = torch.cat([generator(z, one_hot(k), noise_mode="const") for k in range(3)])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(images[a], images[b], atol=1e-3)


@pytest.mark.usefixtures("any_shape")
@pytest.mark.parametrize(
    ("z", "c", "message"),
    [
        (latents(), None, r"has 3 classes; give one-hot labels \[3, 3\]"),
        (latents(), one_hot(0, 1), r"labels are \[2, 3\]; this network takes \[3, 3\]"),
        (latents(), torch.zeros(3, 4), r"labels are \[3, 4\]"),
        (latents(), torch.zeros(3, dtype=torch.long), r"labels are \[3\]"),
        (latents(z_dim=4), one_hot(0, 1, 2), r"z is \[3, 4\]; this network takes \[n, 5\]"),
        (None, one_hot(0), "z is None"),
    ],
)
def test_latents_and_labels_of_another_shape_are_refused(make_generator, z, c, message):
    with pytest.raises(ValueError, match=message):
        make_generator(c_dim=3)(z, c)


def test_ws_of_another_shape_are_refused(make_generator):
    generator = make_generator()
    with pytest.raises(ValueError, match=r"ws is \[2, 3, 4\]; allowed: \[n, 4, 4\]"):
        generator.synthesis(torch.zeros(2, 3, 4))


def test_a_mapping_without_layers_is_the_normalised_latent(make_generator):
    generator = make_generator(z_dim=4, mapping={"num_layers": 0})
    assert [name for name, _ in generator.mapping.named_parameters()] == []
    z = latents(z_dim=4)
    rms = z.square().mean(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(generator.mapping(z)[:, 0], z / rms)
    with pytest.raises(ValueError, match=r"num_layers is 0.*5 features.*w_dim is 4"):
        make_generator(mapping={"num_layers": 0})


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_half_precision_blocks_give_nearly_the_same_images(make_generator, architecture):
    way = {"architecture": architecture, "num_fp16_res": 4, "conv_clamp": 256}
    generator = make_generator(img_resolution=16, **way, fp16_channels_last=True)
    z = latents()
    ws = generator.mapping(z)
    full = generator(z, noise_mode="const")
    assert torch.equal(full, generator.synthesis(ws, noise_mode="const", force_fp32=True))
    half = generator.synthesis(ws, noise_mode="const", force_fp32=False)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0, atol=2e-2)


def test_only_the_highest_resolutions_from_8_on_run_in_half_precision(make_generator):
    for num_fp16_res, expected in ((0, []), (1, [32]), (2, [16, 32]), (9, [8, 16, 32])):
        synthesis = make_generator(img_resolution=32, num_fp16_res=num_fp16_res).synthesis
        half = [r for r in synthesis.block_resolutions if getattr(synthesis, f"b{r}").use_fp16]
        assert half == expected


def test_clamping_limits_the_features(make_generator):
    generator, z = make_generator(conv_clamp=0.01), latents()
    seen = []
    for resolution in (4, 8):
        getattr(generator.synthesis, f"b{resolution}").conv1.register_forward_hook(
            lambda _module, _inputs, output: seen.append(float(output.abs().max()))
        )
    generator(z)
    assert seen == [pytest.approx(0.01)] * 2


def test_latents_follow_the_generator_that_draws_them(make_generator):
    student = make_generator()
    draw = [
        student.sample_latents(4, generator=torch.Generator().manual_seed(k)) for k in (1, 1, 2)
    ]
    assert draw[0].shape == (4, 5)
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_resolution": 12}, "img_resolution is 12; allowed: powers of two from 4"),
        ({"img_resolution": 2}, "img_resolution is 2"),
        ({"architecture": "unet"}, "architecture is 'unet'; allowed are orig, skip, resnet"),
        ({"channel_base": 4}, "channel_base is 4 and channel_max 6"),
        ({"kernel_size": 2}, "kernel_size is 2; it must be odd"),
        ({"z_dim": 0}, "z_dim and c_dim are both 0"),
    ],
)
def test_sizes_that_make_no_generator_are_refused(make_generator, options, message):
    with pytest.raises(ValueError, match=message):
        make_generator(**options)
