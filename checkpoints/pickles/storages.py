"""The blob inside each pickled tensor: what `torch.save` of one storage wrote in its old format.

A blob is five small pickles (magic number, format version, machine, one storage reference, list of
keys), then the number of elements as int64 and the raw elements, all little endian
(torch/serialization.py, `_legacy_save`). The original loader hands it to an unrestricted
`torch.load`; here it is parsed.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from checkpoints.pickles.machine import Machine
from checkpoints.pickles.names import Token
from checkpoints.pickles.window import Window
from checkpoints.records import UnsafeCheckpoint

MAGIC = 0x1950A86A20F9469CFC6C
FORMAT_VERSION = 1001
MACHINE = {
    "protocol_version": FORMAT_VERSION,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}
DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
STORAGE_NAMES = {("torch", name): Token(name) for name in DTYPES}
HEADER = b"".join(pickle.dumps(part, protocol=2) for part in (MAGIC, FORMAT_VERSION, MACHINE))
NAME_OF_DTYPE = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 4096  # the five pickles take about 240 bytes
MAX_DIMENSIONS = 16
MAX_EXTENT = 2**40


@dataclass(frozen=True)
class Storage:
    """Elements that a blob holds, not read yet."""

    data: Window
    dtype: torch.dtype
    numel: int

    def load(self, offset: int, count: int) -> torch.Tensor:
        """Elements [offset, offset + count) in memory of their own, shape [count]."""
        values = torch.empty(count, dtype=self.dtype)
        raw = values.view(torch.uint8).numpy()
        self.data.fill(raw, offset * self.dtype.itemsize)
        if self.dtype == torch.bool and count and raw.max() > 1:
            raise ValueError("holds a bool that is neither 0 nor 1")
        return values


def parse_storage(blob: Window) -> Storage:
    """The one storage of a `torch.storage._load_from_bytes` blob."""
    header = blob_header(blob)
    start = header.position
    check_head(header)
    reference = Machine(header, STORAGE_NAMES, persistent=_Reference).run()
    if not isinstance(reference, _Reference):
        raise UnsafeCheckpoint("holds a tensor blob without a storage")
    keys = Machine(header, {}).run()
    if keys != [reference.key]:
        raise UnsafeCheckpoint("holds a tensor blob with other storages than the one it names")
    (stored,) = struct.unpack("<q", header.take(8))
    size = header.position - start
    expected = size + reference.numel * reference.dtype.itemsize
    if stored != reference.numel or len(blob) != expected:
        raise ValueError(
            f"holds a storage of {reference.numel} elements in a blob of {len(blob)} bytes; "
            f"{expected} are needed"
        )
    data = Window(blob.file, blob.start + size, blob.stop, blob.budget)
    return Storage(data, reference.dtype, reference.numel)


def check_head(header: Window) -> None:
    """Read the magic number, version and machine that begin torch's old format; refuse others."""
    start = header.position
    if len(HEADER) <= header.stop - start and header.take(len(HEADER)) == HEADER:
        return  # the very bytes that torch writes, as a network's every tensor has them
    header.position = start
    if Machine(header, {}).run() != MAGIC:
        raise UnsafeCheckpoint("holds a tensor storage that is not of torch's old format")
    if Machine(header, {}).run() != FORMAT_VERSION:
        raise ValueError(f"holds a tensor storage whose format version is not {FORMAT_VERSION}")
    machine = Machine(header, {}).run()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("holds a tensor storage that is not little endian")


def blob_header(blob: Window) -> Window:
    """The first bytes of the blob, in memory."""
    raw = Window(blob.file, blob.start, blob.stop, blob.budget).take(min(len(blob), MAX_HEADER))
    blob.budget.spend(min(len(raw), 256))
    return Window(io.BytesIO(raw), 0, len(raw), blob.budget)


class _Reference:
    """The persistent identifier ('storage', type, key, location, numel, None) of a blob."""

    def __init__(self, identifier: object) -> None:
        if type(identifier) is not tuple or len(identifier) != 6:
            raise UnsafeCheckpoint("holds a tensor blob whose storage reference is malformed")
        kind, storage, key, location, numel, view = identifier
        strings = type(key) is str and type(location) is str
        if kind != "storage" or type(storage) is not Token or not strings or view is not None:
            raise UnsafeCheckpoint("holds a tensor blob whose storage reference is malformed")
        if type(numel) is not int or not 0 <= numel <= MAX_EXTENT:
            raise UnsafeCheckpoint("holds a tensor blob with an impossible number of elements")
        self.key = key
        self.dtype = DTYPES[storage.name]
        self.numel = numel


def is_dense(size: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether a tensor of this geometry visits each element of a gapless block exactly once."""
    expected = 1
    for step, length in sorted((step, n) for n, step in zip(size, stride, strict=True) if n != 1):
        if step != expected:
            return False
        expected *= length
    return True


def view_storage(
    storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> torch.Tensor:
    """Give the tensor of this geometry memory of its own; refuse it outside of the storage.

    Strides are kept where the elements lie in one gapless block; any other view becomes contiguous.
    """
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise UnsafeCheckpoint(f"holds a tensor of {len(size)} sizes and {len(stride)} strides")
    numbers = (offset, *size, *stride)
    if not all(type(n) is int and 0 <= n <= MAX_EXTENT for n in numbers):
        raise UnsafeCheckpoint(
            "holds a tensor whose offset, size or stride is no reasonable number"
        )
    if math.prod(max(length, 1) for length in size) > MAX_EXTENT:
        raise UnsafeCheckpoint(f"holds a tensor of unreasonable size {size}")
    numel = math.prod(size)
    if numel == 0:
        return torch.empty(size, dtype=storage.dtype)
    span = 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if offset + span > storage.numel:
        raise UnsafeCheckpoint(
            f"holds a tensor that reaches element {offset + span} of a storage of {storage.numel}"
        )
    if is_dense(size, stride):
        return storage.load(offset, span).as_strided(size, stride)
    storage.data.budget.spend(numel * storage.dtype.itemsize)
    return (
        storage.load(offset, span)
        .as_strided(size, stride)
        .clone(memory_format=torch.contiguous_format)
    )


def flat_bytes(tensor: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...], memoryview]:
    """Size, stride and raw elements of a tensor, uncopied where the CPU has it in one block."""
    tensor = tensor.detach().cpu()
    if tensor.numel() == 0 or not is_dense(tensor.shape, tensor.stride()):
        tensor = tensor.contiguous()
    size, stride = tuple(tensor.shape), tuple(tensor.stride())
    in_memory_order = tensor.as_strided((tensor.numel(),), (1,))
    return size, stride, in_memory_order.view(torch.uint8).numpy().data


def value_bytes(tensor: torch.Tensor) -> memoryview:
    """Raw elements of a tensor in the order of its indices, whatever its strides and device."""
    # Where a size is 1, contiguous() leaves any stride as it is, so a view as bytes may be refused.
    tensor = tensor.detach().cpu().contiguous()
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data


def storage_header(dtype: torch.dtype, numel: int, key: int) -> bytes:
    """What stands before the raw elements in a blob: five pickles and the number of elements."""
    if dtype not in NAME_OF_DTYPE:
        raise ValueError(f"a tensor of type {dtype} cannot be written to a network file")
    name = _text(str(key))
    reference = _text("storage") + b"ctorch\n" + NAME_OF_DTYPE[dtype].encode() + b"\n" + name
    count = b"\x8a\x08" + struct.pack("<q", numel)
    identifier = b"\x80\x02(" + reference + _text("cpu") + count + b"NtQ."
    return HEADER + identifier + b"\x80\x02]" + name + b"a." + struct.pack("<q", numel)


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()
