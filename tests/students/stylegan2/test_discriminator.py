"""Laws of the StyleGAN2 discriminator."""

from __future__ import annotations

import pytest
import torch

from students.stylegan2.discriminator import MinibatchStdLayer

WAYS = [
    {"architecture": "orig"},
    {"architecture": "skip", "block_kwargs": {"resample_filter": [1, 2, 1]}},
    {"architecture": "resnet", "conv_clamp": 0.7},
    {"c_dim": 3, "cmap_dim": 5, "mapping_kwargs": {"num_layers": 1, "lr_multiplier": 1}},
    {"epilogue_kwargs": {"mbstd_num_channels": 2, "mbstd_group_size": 2, "activation": "relu"}},
]


def labels(discriminator, *chosen: int) -> torch.Tensor | None:
    return torch.eye(3)[list(chosen)] if discriminator.c_dim else None


@pytest.mark.parametrize("way", WAYS)
def test_first_and_second_gradients_reach_every_parameter(make_discriminator, way):
    discriminator = make_discriminator(**way).requires_grad_(True)
    images = torch.randn(4, 2, 8, 8, requires_grad=True)
    logits = discriminator(images, labels(discriminator, 0, 1, 2, 0))
    assert logits.shape == (4, 1)
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    assert slope.abs().sum(dim=[1, 2, 3]).gt(0).all()
    (logits.square().sum() + slope.square().sum()).backward()
    dead = [n for n, p in discriminator.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_the_minibatch_deviation_is_the_mean_deviation_of_samples_a_stride_apart():
    x = torch.randn(4, 6, 2, 2)
    y = MinibatchStdLayer(group_size=2, num_channels=3)(x)
    assert torch.equal(y[:, :6], x)
    # Groups {0, 2} and {1, 3}; of two values the deviation is half their distance.
    for i, j in ((0, 2), (1, 3)):
        halves = (x[i] - x[j]).abs() / 2
        expected = halves.reshape(3, 2, 2, 2).mean(dim=[1, 2, 3])
        for sample in (i, j):
            torch.testing.assert_close(
                y[sample, 6:], expected[:, None, None].expand(3, 2, 2), rtol=1e-3, atol=1e-4
            )


def test_a_batch_must_be_a_multiple_of_the_minibatch_group_or_smaller(make_discriminator):
    discriminator = make_discriminator(epilogue_kwargs={"mbstd_group_size": 4})
    for n in (1, 2, 3, 4, 8):
        assert discriminator(torch.randn(n, 2, 8, 8)).shape == (n, 1)
    with pytest.raises(ValueError, match="the batch is 6; the discriminator needs a multiple of 4"):
        discriminator(torch.randn(6, 2, 8, 8))
    whole = make_discriminator(epilogue_kwargs={"mbstd_group_size": None})
    assert whole(torch.randn(6, 2, 8, 8)).shape == (6, 1)


def test_without_the_minibatch_deviation_each_logit_depends_on_its_image_alone(make_discriminator):
    alone = make_discriminator(epilogue_kwargs={"mbstd_num_channels": 0})
    x = torch.randn(4, 2, 8, 8)
    torch.testing.assert_close(alone(x)[1:], alone(x[1:]))
    joint = make_discriminator()
    assert not torch.allclose(joint(x)[1:], joint(x[1:]), atol=1e-4)


@pytest.mark.usefixtures("any_shape")
def test_the_label_of_a_conditional_discriminator_matters_and_is_checked(make_discriminator):
    discriminator = make_discriminator(c_dim=3, mapping_kwargs={"lr_multiplier": 1})
    x = torch.randn(1, 2, 8, 8)
    logits = [float(discriminator(x, torch.eye(3)[[k]])) for k in range(3)]
    assert len({round(logit, 4) for logit in logits}) == 3
    with pytest.raises(ValueError, match=r"has 3 classes; give one-hot labels \[1, 3\]"):
        discriminator(x)
    with pytest.raises(ValueError, match=r"labels are \[2, 3\]; this network takes \[1, 3\]"):
        discriminator(x, torch.eye(3)[:2])


def test_frozen_layers_do_not_change_the_function(make_discriminator):
    free, frozen = make_discriminator(), make_discriminator(block_kwargs={"freeze_layers": 3})
    frozen.load_state_dict(free.state_dict())
    x = torch.randn(2, 2, 8, 8)
    assert torch.equal(free(x), frozen(x))


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_half_precision_blocks_give_nearly_the_same_logits(make_discriminator, architecture):
    way = {"num_fp16_res": 4, "conv_clamp": 256, "architecture": architecture}
    discriminator = make_discriminator(**way, block_kwargs={"fp16_channels_last": True})
    x = torch.randn(4, 2, 8, 8)
    full, half = discriminator(x), discriminator(x, force_fp32=False)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0, atol=2e-2)


@pytest.mark.usefixtures("any_shape")
def test_images_of_another_shape_are_refused(make_discriminator):
    for shape in ([2, 2, 16, 16], [2, 3, 8, 8], [2, 8, 8]):
        with pytest.raises(ValueError, match=rf"img is \[{', '.join(map(str, shape))}\]"):
            make_discriminator()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "unet"}, "architecture is 'unet'"),
        ({"img_resolution": 9}, "img_resolution is 9"),
        ({"epilogue_kwargs": {"mbstd_num_channels": 4}}, "4; it must divide 6 channels"),
    ],
)
def test_sizes_that_make_no_discriminator_are_refused(make_discriminator, options, message):
    with pytest.raises(ValueError, match=message):
        make_discriminator(**options)
