"""Folders that diffusers wrote, as teachers: an unconditional or class-conditional UNet2DModel.

`load_folder` reads one: config.json says what the network is (teachers.networks.unet2d builds it),
scheduler_config.json what it was trained on (`schedulers` makes a noise scale of it, by name from a
list), and the weights come from safetensors, or from a .bin that is read as plain data. Kinds of
blocks that are not built here are built by the package diffusers where it is installed (`package`);
nothing else needs it.
"""

from teachers.diffusers.folder import load_folder, pipeline_of, weight_files

__all__ = ["load_folder", "pipeline_of", "weight_files"]
