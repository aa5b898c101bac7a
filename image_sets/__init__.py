"""Image data sets as files: uint8 NCHW outside, the StyleGAN layout on disk.

stylegan    folders and zips with an optional dataset.json: ImageFolder reads, write_zip writes
sources     class folders (directory or tar), MNIST, CIFAR-10, and convert() from any of them
pictures    one encoded image to pixels and back, grids
fingerprint a hash of what a data set holds

Nothing inside a file runs, and sizes are checked before memory is taken. A file that cannot be used
is one ValueError (a missing or unreadable one an OSError) that names it.
"""

from image_sets.fingerprint import fingerprint
from image_sets.pictures import SAVED, decode_image, image_grid, save_png
from image_sets.sources import UnusableImages, convert, read_class_folders
from image_sets.stylegan import ImageFolder, write_zip

__all__ = [
    "SAVED",
    "ImageFolder",
    "UnusableImages",
    "convert",
    "decode_image",
    "fingerprint",
    "image_grid",
    "read_class_folders",
    "save_png",
    "write_zip",
]
