"""Published networks by short name, so that `--student ffhq` needs no address.

A name is the published file's own, without `.pkl`, `.pt` or `.pth`; StyleGAN-XL's, some of which
others have too, begin with `stylegan-xl-`. None of these addresses was fetched from here: they are
as the publishers' documents write them, and a file that has moved is one clear error that names the
address. Files are kept with the SHA-256 of what arrived (`cache`); where SHA256 has that of an
address, nothing else is kept. No publisher here announces any: those are from programs that others
have been checking the file with. Left out are EDM2's networks of 512 x 512, which see the codes of
another network, not images, and OpenAI's classifiers, upsamplers and consistency models.
"""

from __future__ import annotations

from types import MappingProxyType

NVLABS = "https://nvlabs-fi-cdn.nvidia.com"
NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research"
STYLEGAN2_ADA = f"{NVLABS}/stylegan2-ada-pytorch/pretrained"
STYLEGAN2 = f"{NGC}/stylegan2/versions/1/files"
STYLEGAN3 = f"{NGC}/stylegan3/versions/1/files"
STYLEGAN_XL = "https://s3.eu-central-1.amazonaws.com/avg-projects/stylegan_xl/models"
EDM = f"{NVLABS}/edm/pretrained"
EDM2 = f"{NVLABS}/edm2/posthoc-reconstructions"
OPENAI = "https://openaipublic.blob.core.windows.net"
IMPROVED, GUIDED = f"{OPENAI}/diffusion/march-2021", f"{OPENAI}/diffusion/jul-2021"
CONSISTENCY = f"{OPENAI}/consistency"
DIFFACE = "https://github.com/zsyOAOA/DifFace/releases/download/V1.0"

# Of these, cifar10 alone has classes.
_STYLEGAN2_ADA = "ffhq metfaces afhqcat afhqdog afhqwild brecahad cifar10"
_TRANSFER = (
    "celebahq-res256-mirror-paper256-kimg100000-ada-target0.5 ffhq-res256-mirror-paper256-noaug "
    "ffhq-res512-mirror-stylegan2-noaug ffhq-res1024-mirror-stylegan2-noaug "
    "lsundog-res256-paper256-kimg100000-noaug"
)
_STYLEGAN2 = (
    "afhqcat-512x512 afhqdog-512x512 afhqv2-512x512 afhqwild-512x512 brecahad-512x512 "
    "celebahq-256x256 cifar10-32x32 ffhq-1024x1024 ffhq-256x256 ffhq-512x512 ffhqu-1024x1024 "
    "ffhqu-256x256 lsundog-256x256 metfaces-1024x1024 metfacesu-1024x1024"
)
_STYLEGAN3 = (
    "afhqv2-512x512 ffhq-1024x1024 ffhqu-1024x1024 ffhqu-256x256 metfaces-1024x1024 "
    "metfacesu-1024x1024"
)
_STYLEGAN_XL = (
    "cifar10 imagenet16 imagenet32 imagenet64 imagenet128 imagenet256 imagenet512 imagenet1024 "
    "ffhq256 ffhq512 ffhq1024 pokemon256 pokemon512 pokemon1024"
)
_EDM = (
    "edm-cifar10-32x32-cond-vp edm-cifar10-32x32-cond-ve edm-cifar10-32x32-uncond-vp "
    "edm-cifar10-32x32-uncond-ve edm-ffhq-64x64-uncond-vp edm-ffhq-64x64-uncond-ve "
    "edm-afhqv2-64x64-uncond-vp edm-afhqv2-64x64-uncond-ve edm-imagenet-64x64-cond-adm"
)
_BASELINES = (
    "baseline-cifar10-32x32-uncond-vp baseline-cifar10-32x32-uncond-ve "
    "baseline-imagenet-64x64-cond-adm"
)
_EDM2 = (
    "edm2-img64-xs-0134217-0.110 edm2-img64-xs-0134217-0.175 edm2-img64-s-1073741-0.045 "
    "edm2-img64-s-1073741-0.075 edm2-img64-s-1073741-0.105 edm2-img64-m-2147483-0.060 "
    "edm2-img64-l-1073741-0.040 edm2-img64-xl-0671088-0.040"
)
_IMPROVED = (
    "cifar10_uncond_50M_500K cifar10_uncond_vlb_50M_500K imagenet64_uncond_100M_1500K "
    "imagenet64_uncond_vlb_100M_1500K imagenet64_cond_270M_250K lsun_uncond_100M_1200K_bs128 "
    "lsun_uncond_100M_2400K_bs64"
)
_GUIDED = (
    "64x64_diffusion 128x128_diffusion 256x256_diffusion 256x256_diffusion_uncond "
    "512x512_diffusion lsun_bedroom lsun_cat lsun_horse lsun_horse_nodropout"
)
_CONSISTENCY = "edm_imagenet64_ema edm_bedroom256_ema edm_cat256_ema"


def _addresses(
    root: str, names: str, *, name: str = "", file: str = "", end: str = "pkl"
) -> dict[str, str]:
    """Short name -> address; what comes before the names there, and before the files' names."""
    return {f"{name}{own}": f"{root}/{file}{own}.{end}" for own in names.split()}


STUDENTS = MappingProxyType(
    {
        **_addresses(STYLEGAN2_ADA, _STYLEGAN2_ADA),
        **_addresses(f"{STYLEGAN2_ADA}/transfer-learning-source-nets", _TRANSFER),
        **_addresses(STYLEGAN2, _STYLEGAN2, name="stylegan2-", file="stylegan2-"),
        **_addresses(STYLEGAN3, _STYLEGAN3, name="stylegan3-t-", file="stylegan3-t-"),
        **_addresses(STYLEGAN3, _STYLEGAN3, name="stylegan3-r-", file="stylegan3-r-"),
        **_addresses(STYLEGAN_XL, _STYLEGAN_XL, name="stylegan-xl-"),
    }
)
TEACHERS = MappingProxyType(
    {
        **_addresses(EDM, _EDM),
        **_addresses(f"{EDM}/baseline", _BASELINES),
        **_addresses(EDM2, _EDM2),
        **_addresses(IMPROVED, _IMPROVED, end="pt"),
        **_addresses(GUIDED, _GUIDED, end="pt"),
        **_addresses(CONSISTENCY, _CONSISTENCY, end="pt"),
        **_addresses(DIFFACE, "iddpm_ffhq512_ema500000", end="pth"),
    }
)
ADDRESSES = MappingProxyType({**STUDENTS, **TEACHERS})
# Of an address: in several image-making programs of 2022, which refuse any other file, as
# disco-diffusion's `diff_model_map`.
SHA256 = MappingProxyType(
    {
        ADDRESSES["256x256_diffusion_uncond"]: (
            "a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1"
        ),
    }
)
