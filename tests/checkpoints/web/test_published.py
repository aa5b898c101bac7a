"""The table of published networks: whole addresses, one name each, and no name twice."""

from __future__ import annotations

import re
from collections import Counter

from checkpoints.web import cache
from checkpoints.web.published import ADDRESSES, SHA256, STUDENTS, TEACHERS


def test_every_name_has_one_whole_address_of_a_file():
    assert len(ADDRESSES) == len(STUDENTS) + len(TEACHERS)
    for name, address in ADDRESSES.items():
        assert re.fullmatch(r"https://[a-z0-9.-]+/[\w./-]+\.(pkl|pt|pth)", address), address
        assert re.fullmatch(r"[a-z0-9][A-Za-z0-9._-]*", name), name
        assert cache.is_url(address) and not cache.is_url(name)
    assert max(Counter(ADDRESSES.values()).values()) == 1


def test_a_name_is_the_files_own_but_for_the_prefix_of_stylegan_xl():
    for name, address in ADDRESSES.items():
        file = address.rpartition("/")[2].rpartition(".")[0]
        assert name == (f"stylegan-xl-{file}" if "/stylegan_xl/" in address else file)


def test_the_names_of_the_documents_are_there():
    for name in ("ffhq", "cifar10", "stylegan2-cifar10-32x32", "stylegan3-r-ffhqu-256x256"):
        assert name in STUDENTS
    for name in ("edm-cifar10-32x32-uncond-vp", "baseline-imagenet-64x64-cond-adm"):
        assert name in TEACHERS
    for name in ("lsun_bedroom", "256x256_diffusion_uncond", "edm_cat256_ema"):
        assert name in TEACHERS


def test_known_hashes_are_of_addresses_here():
    assert set(SHA256) <= set(ADDRESSES.values())
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in SHA256.values())
