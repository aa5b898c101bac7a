"""What a network is known by."""

from __future__ import annotations

import torch

from roles.digest import digest_of


def test_a_networks_hash_is_of_its_values_whatever_their_strides() -> None:
    plain = torch.nn.Conv2d(4, 6, 1)
    before = digest_of(plain)
    strided = torch.nn.Conv2d(4, 6, 1)
    strided.load_state_dict(plain.state_dict())
    strided = strided.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    assert strided.weight.stride() != (4, 1, 1, 1)
    assert digest_of(strided) == before


def test_a_networks_hash_changes_with_a_value_a_name_a_shape_or_a_dtype() -> None:
    layer = torch.nn.Linear(2, 3)
    found = {digest_of(layer), digest_of(torch.nn.Sequential(layer)), digest_of(layer.double())}
    layer.float().weight.data[0, 0] += 1e-7 + layer.weight[0, 0].item() * 1e-6
    found.add(digest_of(layer))
    layer.weight.data = layer.weight.data.reshape(2, 3)
    found.add(digest_of(layer))
    assert len(found) == 5
