"""Files of arrays that somebody else made: read whole, or refused with a reason and no harm."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest

from metrics import storage


class Trap:
    """An object whose unpickling would be noticed."""

    sprung = False

    def __reduce__(self):
        return (spring, ())


def spring() -> None:
    Trap.sprung = True


def npy(shape: tuple[int, ...], payload: bytes, dtype: str = "<f8") -> bytes:
    """A .npy member that says `shape`, with any bytes after its header."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + payload


def npz(path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_that_numpy_wrote_come_back_with_value_dtype_and_order(tmp_path, save):
    arrays = {
        "c.0.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.array(7),
        "text": np.array("naïve"),
        "empty": np.zeros((0, 3)),
        "big_endian": np.arange(3, dtype=">f8"),
    }
    save(tmp_path / "a.npz", **arrays)
    read = storage.read_arrays(tmp_path / "a.npz")
    assert read.keys() == arrays.keys()
    for key, value in arrays.items():
        assert read[key].dtype == value.dtype
        assert np.array_equal(read[key], value)


def test_writing_the_same_arrays_gives_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        storage.write_arrays(tmp_path / name, {"x": np.arange(3), "name": np.array("n")})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_a_pickled_object_is_refused_and_does_not_run(tmp_path):
    np.savez(tmp_path / "trap.npz", mu=np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match=r"trap.npz: array 'mu' holds pickled Python objects"):
        storage.read_arrays(tmp_path / "trap.npz")
    assert not Trap.sprung


def test_an_object_hidden_in_a_structured_dtype_is_refused(tmp_path):
    np.savez(tmp_path / "trap.npz", mu=np.array([(1, Trap())], dtype=[("a", int), ("b", object)]))
    with pytest.raises(ValueError, match="pickled Python objects"):
        storage.read_arrays(tmp_path / "trap.npz")
    assert not Trap.sprung


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy((1 << 40,), b""), "is of 8796093022208 bytes and has 0"),
        (npy((4,), bytes(8)), "is of 32 bytes and has 8"),
        (npy((-1,), bytes(8)), "numpy's format"),
        (npy((1,), bytes(8), dtype="(" * 900), "numpy's format"),
        (npy((1,), bytes(8), dtype="<f3"), "dtype <f3, which numpy does not know"),
        (npy((1,), bytes(8)).replace(b"False", b"   \xff "), "numpy's format"),
        (npy((1,), bytes(8)).replace(b"'shape'", b"'sha\npe"), "numpy's format"),
        (npy((1,), bytes(8)).replace(b"False", b"b'\\x"), "numpy's format"),
        (npy((2,), bytes(16), dtype="<c8"), "dtype <c8"),
        (b"not an array", "not in numpy's format"),
        (b"\x93NUMPY\x09\x00aa", "not in numpy's format"),
    ],
)
def test_a_member_that_says_what_it_does_not_hold_is_refused(tmp_path, member, message):
    npz(tmp_path / "bad.npz", {"mu.npy": member})
    with pytest.raises(ValueError, match=message) as caught:
        storage.read_arrays(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_zip_that_would_unpack_to_more_than_is_read_is_refused_before_it_does(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(storage, "MAX_BYTES", 1 << 20)
    npz(tmp_path / "bomb.npz", {"mu.npy": npy((1 << 18,), bytes(1 << 21))})
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 14
    with pytest.raises(ValueError, match="2 MiB; at most 64 of 1 MiB"):
        storage.read_arrays(tmp_path / "bomb.npz")


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
def test_a_file_that_is_no_zip_or_was_cut_is_refused(tmp_path, cut):
    buffer = io.BytesIO()
    np.savez(buffer, mu=np.zeros(100))
    (tmp_path / "cut.npz").write_bytes(buffer.getvalue()[:cut])
    with pytest.raises(ValueError, match=r"cut.npz: not a readable .npz"):
        storage.read_arrays(tmp_path / "cut.npz")


def test_a_damaged_byte_is_noticed(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.arange(100.0))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[data.find(b"\x93NUMPY") + 300] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match="CRC"):
        storage.read_arrays(tmp_path / "a.npz")
