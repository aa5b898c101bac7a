"""Whatever a network of diffusers predicts, at whatever scale and time, it becomes D(x; sigma)."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

import teachers
from teachers.converted import ConvertedDenoiser
from teachers.diffusers.folder import OfUnitImages
from teachers.diffusers.schedulers import scale_of
from teachers.gaussian import Gaussian
from teachers.noise_scales import EDMScale, Steps, VEScale, place_of

MEAN, STD = 0.3, 0.4
SCHEDULE = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
SIZES: Any = {"img_channels": 1, "img_resolution": 4}
SIGMA = torch.tensor([0.021, 0.2, 1.0, 30.0, 79.0])


class Exact(torch.nn.Module):
    """What a network would predict at time t if the data were N(MEAN, STD^2 I).

    predict(x, t) is the prediction and comes from a subclass' equations alone.
    """

    def __init__(self, predict: Any, *, variances: bool = False):
        super().__init__()
        self.predict, self.variances = predict, variances
        self.weight = torch.nn.Parameter(torch.zeros([], dtype=torch.float64))
        self.seen: list[torch.Tensor] = []

    def forward(self, x, t, labels=None):
        self.seen.append(t)
        out = self.predict(x, t.reshape(-1, 1, 1, 1))
        return torch.cat([out, out + 7], dim=1) if self.variances else out

    def features(self, x, t, labels=None):
        return [x, self.predict(x, t.reshape(-1, 1, 1, 1))[:, :, ::2, ::2]]


def ddpm(kind: str) -> Any:
    """Ho et al.'s x_t = sqrt(a) x_0 + sqrt(1 - a) eps, between whole t geometrically in sigma."""

    def predict(x, t):
        logs = ((1 - SCHEDULE) / SCHEDULE).log() / 2
        below = t.long().clamp(max=998)
        sigma = (logs[below] + (t - below) * (logs[below + 1] - logs[below])).exp()
        a = 1 / (1 + sigma**2)
        x_0 = (STD**2 * x / a.sqrt() + sigma**2 * MEAN) / (STD**2 + sigma**2)
        eps = (x - a.sqrt() * x_0) / (1 - a).sqrt()
        return {
            "epsilon": eps,
            "sample": x_0,
            # Salimans and Ho 2022, Appendix D: v = sqrt(a) eps - sqrt(1 - a) x_0.
            "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x_0,
        }[kind]

    return predict


def score_of_unit_images(x, t):
    """The score of images in [0, 1] under noise of level t: they are N((m + 1) / 2, s^2 / 4)."""
    return ((MEAN + 1) / 2 - x) / (STD**2 / 4 + t**2)


def edm_target(sign: float) -> Any:
    """F of Karras et al. 2022, Eq. 7 solved for F, where D is exact."""

    def predict(x, t):
        sigma, data = (4 * t).exp(), 0.5
        noisy = x * (sigma**2 + data**2).sqrt()
        exact = (STD**2 * noisy + sigma**2 * MEAN) / (STD**2 + sigma**2)
        c_skip = data**2 / (sigma**2 + data**2)
        return sign * (exact - c_skip * noisy) * (sigma**2 + data**2).sqrt() / (sigma * data)

    return predict


def rows(*, variances: bool = False) -> dict[str, tuple[Any, Any]]:
    """Name -> an exact network, and how it is told the noise level."""
    kinds = ("epsilon", "sample", "v_prediction")
    score = Exact(score_of_unit_images, variances=variances)
    return {
        **{k: (Exact(ddpm(k), variances=variances), Steps(SCHEDULE, prediction=k)) for k in kinds},
        "score_sde": (OfUnitImages(score), VEScale(0.02, 100.0, factor=0.5)),
        **{
            f"edm {sign:+.0f}": (
                Exact(edm_target(sign), variances=variances),
                EDMScale(factor=0.25, sign=sign),
            )
            for sign in (1.0, -1.0)
        },
    }


@pytest.mark.parametrize("variances", [False, True])
@pytest.mark.parametrize("row", rows())
def test_whatever_an_exact_network_predicts_the_denoiser_is_exact(row, variances):
    network, scale = rows(variances=variances)[row]
    denoiser = ConvertedDenoiser(network, scale, **SIZES)
    x = MEAN + (STD**2 + SIGMA**2).sqrt()[:, None, None, None] * torch.randn(5, 1, 4, 4)
    exact = Gaussian(MEAN, STD, **SIZES)(x, SIGMA)
    # The noise levels of the schedule are kept in float32.
    torch.testing.assert_close(denoiser(x, SIGMA).float(), exact, rtol=1e-4, atol=1e-4)


def test_the_sampler_keeps_within_the_noise_levels_of_the_schedule():
    denoiser = ConvertedDenoiser(Exact(ddpm("epsilon")), Steps(SCHEDULE), **SIZES)
    n = 400
    x = teachers.sample(denoiser, torch.randn(n, 1, 4, 4), num_steps=40).flatten()
    # Four standard errors, and the solver's own error, below a hundredth.
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(16 * n) + 0.01)
    assert float(x.std()) == pytest.approx(STD, abs=4 * STD / math.sqrt(32 * n) + 0.01)


def test_features_are_asked_at_the_scale_and_time_at_which_the_network_denoises():
    for network, scale in rows().values():
        denoiser = ConvertedDenoiser(network, scale, **SIZES)
        inner: Any = network.network if isinstance(network, OfUnitImages) else network
        seen: list[torch.Tensor] = []
        inner.register_forward_hook(lambda module, given, out, seen=seen: seen.append(given[0]))
        x = torch.randn(5, 1, 4, 4)
        denoiser(x, SIGMA)
        highest, lowest = denoiser.features(x, SIGMA)
        assert torch.equal(highest, seen[0]) and lowest.shape[2:] == (2, 2)
        t = inner.seen[0].reshape(-1, 1, 1, 1)
        assert torch.equal(lowest, inner.predict(highest, t)[..., ::2, ::2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Steps(SCHEDULE, prediction="x"),
            "prediction_type is 'x'; allowed are epsilon, sample, v_prediction",
        ),
        (lambda: Steps(SCHEDULE.flip(0)), "alphas_cumprod must fall, and lie between 0 and 1"),
    ],
)
def test_options_that_make_no_scale_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def levels_of(**options: Any) -> torch.Tensor:
    config = {"_class_name": "DDIMScheduler", **options}
    scale: Any = scale_of(config, fourier=False)
    return scale.log_sigmas.double().exp()


def test_betas_make_the_noise_levels_that_the_papers_give():
    for name in ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"):
        levels = levels_of(_class_name=name)
        torch.testing.assert_close(levels, ((1 - SCHEDULE) / SCHEDULE).sqrt(), rtol=1e-4, atol=0)
    # Stable Diffusion's, whose ends are known: sigma 0.0292 to 14.6.
    scaled = levels_of(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert scaled[[0, -1]].tolist() == pytest.approx([0.02917, 14.6146], rel=1e-3)
    # Nichol and Dhariwal 2021, Eq. 17: a_t = f(t) / f(0), f a squared cosine, but for its end.
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    f = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    a = f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    cosine = levels_of(beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(cosine[:-2], ((1 - a) / a).sqrt()[:-2], rtol=1e-2, atol=0)
    assert len(levels_of(trained_betas=[0.1, 0.2])) == 2
    assert levels_of(trained_betas=[0.1, 0.2])[1] == pytest.approx(math.sqrt(0.28 / 0.72))


def test_a_schedule_that_ends_in_pure_noise_keeps_its_beginning_and_loses_its_end():
    # Lin et al. 2023, Algorithm 1; of a_T = 0 there is no noise level.
    plain, rescaled = levels_of(), levels_of(rescale_betas_zero_snr=True)
    assert len(rescaled) == len(plain) - 1
    assert rescaled[0] == pytest.approx(float(plain[0]), rel=1e-3)
    assert rescaled[-1] > 3 * plain[-1]


def test_other_schedulers_have_their_own_noise_levels():
    ve: Any = scale_of({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 348}, fourier=True)
    # Of images in [0, 1]: twice as much between -1 and 1.
    assert (ve.sigma_min, ve.sigma_max, ve.factor) == (0.02, 696.0, 0.5)
    for prediction, sign in (("epsilon", 1), ("v_prediction", -1)):
        config = {"_class_name": "EDMEulerScheduler", "sigma_data": 1.0}
        edm: Any = scale_of({**config, "prediction_type": prediction}, fourier=False)
        assert (edm.sigma_min, edm.sigma_max, edm.sigma_data, edm.factor, edm.sign) == (
            *(0.002, 80.0, 1.0, 0.25, sign),
        )


def test_steps_between_the_trained_ones_are_geometric_and_beyond_them_clip():
    scale: Any = scale_of({"_class_name": "DDPMScheduler"}, fourier=False)
    levels = ((1 - SCHEDULE) / SCHEDULE).sqrt()
    assert scale.sigma_min == pytest.approx(float(levels[0]), rel=1e-3)
    assert scale.sigma_max == pytest.approx(float(levels[-1]), rel=1e-3)
    between = (levels[10] * levels[11]).sqrt()
    asked = torch.stack([levels[10], between, levels[999] * 9, levels[0] / 9])
    got = place_of(asked, Steps(SCHEDULE).log_sigmas)
    torch.testing.assert_close(got, torch.tensor([10, 10.5, 999, 0]).double(), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("config", "fourier", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, False, "flow matching and not conv"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, False, "allowed are DDPMScheduler, "),
        ({"_class_name": "KarrasVeScheduler"}, True, "its scheduler is 'KarrasVeScheduler'; allow"),
        ({"num_train_timesteps": 10}, False, "its scheduler is None; allowed are DDPMScheduler"),
        ({}, True, "a network with Fourier features and no scheduler_config.json beside it"),
        ({"_class_name": "DDPMScheduler"}, True, "its scheduler is DDPMScheduler and its time_emb"),
        ({"_class_name": "ScoreSdeVeScheduler"}, False, "and its time_embedding_type positional"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 1e4}, True, "sigma_max is the larger"),
        (
            {"_class_name": "DDIMScheduler", "prediction_type": "flow_prediction"},
            False,
            "prediction_type is 'flow_prediction'; allowed: epsilon, sample, v_prediction",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
            False,
            "use_flow_sigmas is True; allowed: False",
        ),
        ({"_class_name": "DDIMScheduler", "num_train_timesteps": 10**9}, False, "from 1 to 100000"),
        (
            {"_class_name": "DDIMScheduler", "trained_betas": [2.0]},
            False,
            "numbers between 0 and 1",
        ),
        ({"_class_name": "DDIMScheduler", "beta_end": 1.0}, False, "must fall, and lie between"),
    ],
)
def test_other_noisings_are_refused_by_name(config, fourier, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        scale_of(config, fourier=fourier)
    assert "\n" not in str(error.value)
