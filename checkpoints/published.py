"""Published networks by short name, so that `--student ffhq` needs no address.

A name is the published file's own, without `.pkl`; the few that two publishers share have a prefix.
None of these addresses was fetched from here: they are as the publishers' documents write them,
and a file that has moved is one clear error that names the address. Files are kept with the SHA-256
of what arrived (`cache`), which no publisher announces.
"""

from __future__ import annotations

STYLEGAN2_ADA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained"
STYLEGAN2 = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files"
STYLEGAN3 = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan3/versions/1/files"
STYLEGAN_XL = "https://s3.eu-central-1.amazonaws.com/avg-projects/stylegan_xl/models"
EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"

# All but the last of StyleGAN2-ADA are unconditional; `cifar10` has ten classes.
_STYLEGAN2_ADA = ("ffhq", "metfaces", "afhqcat", "afhqdog", "afhqwild", "brecahad", "cifar10")
_STYLEGAN3 = (
    "stylegan3-t-ffhq-1024x1024",
    "stylegan3-t-ffhqu-1024x1024",
    "stylegan3-t-ffhqu-256x256",
    "stylegan3-t-metfaces-1024x1024",
    "stylegan3-t-metfacesu-1024x1024",
    "stylegan3-t-afhqv2-512x512",
    "stylegan3-r-ffhq-1024x1024",
    "stylegan3-r-ffhqu-1024x1024",
    "stylegan3-r-ffhqu-256x256",
    "stylegan3-r-metfaces-1024x1024",
    "stylegan3-r-metfacesu-1024x1024",
    "stylegan3-r-afhqv2-512x512",
)
_STYLEGAN_XL = ("cifar10", *(f"imagenet{size}" for size in (16, 32, 64, 128, 256, 512, 1024)))
_EDM = (
    *(f"edm-cifar10-32x32-{kind}-{law}" for kind in ("cond", "uncond") for law in ("vp", "ve")),
    *(f"edm-{data}-64x64-uncond-{law}" for data in ("ffhq", "afhqv2") for law in ("vp", "ve")),
    "edm-imagenet-64x64-cond-adm",
)
_BASELINES = (
    "baseline-cifar10-32x32-uncond-vp",
    "baseline-cifar10-32x32-uncond-ve",
    "baseline-imagenet-64x64-cond-adm",
)

STUDENTS: dict[str, str] = {
    **{name: f"{STYLEGAN2_ADA}/{name}.pkl" for name in _STYLEGAN2_ADA},
    "stylegan2-cifar10-32x32": f"{STYLEGAN2}/stylegan2-cifar10-32x32.pkl",
    **{name: f"{STYLEGAN3}/{name}.pkl" for name in _STYLEGAN3},
    **{f"stylegan-xl-{name}": f"{STYLEGAN_XL}/{name}.pkl" for name in _STYLEGAN_XL},
}
TEACHERS: dict[str, str] = {
    **{name: f"{EDM}/{name}.pkl" for name in _EDM},
    **{name: f"{EDM}/baseline/{name}.pkl" for name in _BASELINES},
}
ADDRESSES = STUDENTS | TEACHERS
