"""Bytes and floats of pixels: there and back, and to the nearest end beyond the range."""

from __future__ import annotations

import torch

from roles.pixels import from_uint8, to_uint8


def test_every_byte_comes_back_and_what_is_beyond_the_range_goes_to_its_end() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)
    beyond = torch.tensor([-7.0, -1.01, 1.01, 7.0]).reshape(1, 1, 2, 2)
    assert to_uint8(beyond).flatten().tolist() == [0, 0, 255, 255]
