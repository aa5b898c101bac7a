"""Folders that diffusers wrote, as teachers: an unconditional or class-conditional UNet2DModel.

`load_folder` reads one: config.json says what the network is (teachers.networks.unet2d builds it),
scheduler_config.json what it was trained on (`schedulers`, by name from a list, makes a schedule of
`schedules`), and the weights come from safetensors, or from a .bin that is read as plain data.
`DiffusersDenoiser` puts them together. Kinds of blocks that are not built here are built by the
package diffusers where it is installed (`package`); nothing else needs it.
"""

from teachers.diffusers.denoiser import DiffusersDenoiser
from teachers.diffusers.folder import load_folder, pipeline_of, weight_files
from teachers.diffusers.schedules import Discrete, Preconditioned, VarianceExploding

__all__ = [
    "DiffusersDenoiser",
    "Discrete",
    "Preconditioned",
    "VarianceExploding",
    "load_folder",
    "pipeline_of",
    "weight_files",
]
