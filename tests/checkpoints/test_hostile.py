"""Files that ask for more than data are refused, by name, and nothing in them is run."""

from __future__ import annotations

import io
import os
import struct
import time
from typing import Any

import numpy as np
import pytest
import torch

from checkpoints import UnsafeCheckpoint, check_clean
from checkpoints.pickles.reader import read_stream
from checkpoints.pickles.storages import storage_header


def read_bytes(raw: bytes) -> Any:
    return read_stream(io.BytesIO(raw), len(raw))


def read_wanted(raw: bytes) -> None:
    """Read, and want the network G_ema, or the file's only object."""
    value = read_bytes(raw)
    check_clean(value["G_ema"] if isinstance(value, dict) else value, "a.pkl", "G_ema")


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def blob(raw: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(raw)) + raw


def pickled(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


def long(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def storage(raw: bytes) -> bytes:
    return name("torch.storage", "_load_from_bytes") + blob(raw) + b"\x85R"


FOUR = storage_header(torch.float32, 4, 0) + bytes(16)


def tensor(inner: bytes, offset: bytes, size: bytes, stride: bytes) -> bytes:
    head = name("torch._utils", "_rebuild_tensor_v2") + b"(" + inner
    return head + offset + size + stride + b"\x89" + name("collections", "OrderedDict") + b")RtR"


class Reduces:
    """Pickles as a call of any importable function."""

    def __init__(self, function, *args):
        self.parts = function, args

    def __reduce__(self):
        return self.parts


@pytest.mark.usefixtures("runs_nothing")
class TestNamesAndOpcodes:
    @pytest.mark.parametrize(
        ("function", "args", "shown"),
        [
            (os.system, ("touch pwned",), rf"{os.system.__module__}\.system"),
            (eval, ("1",), r"builtins\.eval"),
            (exec, ("1",), r"builtins\.exec"),
            (getattr, ({}, "x"), r"builtins\.getattr"),
            (torch.load, ("/etc/hostname",), r"torch\.serialization\.load"),
            (np.load, ("a.npy",), r"numpy\.load"),
        ],
    )
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_a_call_of_anything_outside_of_the_table_is_named(
        self, function, args, shown, protocol, original
    ):
        raw = original.dump({"G_ema": Reduces(function, *args)}, protocol)
        with pytest.raises(UnsafeCheckpoint, match=shown.replace("builtins", r"_*builtins?_*")):
            read_wanted(raw)

    @pytest.mark.parametrize(
        ("module", "attribute"),
        [
            ("os", "system"),
            ("collections", "OrderedDict.fromkeys"),
            ("torch._utils", "_rebuild_tensor_v2.__globals__"),
            ("torch_utils", "persistence._reconstruct_persistent_obj"),
            ("torch.storage", "_load_from_bytes "),
            ("Torch.storage", "_load_from_bytes"),
            ("a\nb", "c\x1b[31m"),
        ],
    )
    def test_a_name_must_be_in_the_table_to_the_letter(self, module, attribute):
        with pytest.raises(UnsafeCheckpoint, match="refers to") as error:
            read_wanted(pickled(name(module, attribute)))
        assert str(error.value).isprintable()

    @pytest.mark.parametrize(
        ("body", "shown"),
        [
            (b"\x82\x01", "EXT1"),
            (b"\x83\x01\x00", "EXT2"),
            (b"\x84\x01\x00\x00\x00", "EXT4"),
            (b"Pkey\n", "PERSID"),
            (b"K\x01Q", "persistent identifier"),
            (b"(ios\nsystem\n", "INST"),
            (b"(cos\nsystem\no", "OBJ"),
            (b"\x97", "NEXT_BUFFER"),
            (b"N\x85\x92", "NEWOBJ_EX"),
            (b"N0", "POP"),
            (b"N2", "DUP"),
            (b"S'a'\n", "STRING"),
            (b"U\x01a", "SHORT_BINSTRING"),
        ],
    )
    def test_an_opcode_that_no_network_file_needs_is_named(self, body, shown):
        with pytest.raises(UnsafeCheckpoint, match=shown):
            read_bytes(pickled(body))

    @pytest.mark.parametrize(
        "body",
        [
            b"K\x01}b",
            b"}}b",
            b"](K\x01K\x02eN}b0",
            name("collections", "OrderedDict") + b"}b",
            name("torch._utils", "_rebuild_parameter") + b"}b",
            tensor(storage(FOUR), b"K\x00", b"K\x04\x85", b"K\x01\x85") + b"}b",
            name("training.networks", "Generator") + b")\x81}" + text("a") + b"Ns\x62}" + b"b",
        ],
    )
    def test_build_reaches_nothing_but_a_fresh_record(self, body):
        with pytest.raises(UnsafeCheckpoint, match="sets the state"):
            read_bytes(pickled(body))

    @pytest.mark.parametrize(
        "body",
        [
            name("collections", "OrderedDict"),
            name("numpy", "ndarray"),
            storage(FOUR),
            b"]" + name("torch._utils", "_rebuild_parameter") + b"a",
            name("training.networks", "Generator"),
        ],
    )
    def test_a_token_of_the_reader_cannot_be_data(self, body):
        with pytest.raises(UnsafeCheckpoint, match="bare"):
            read_bytes(pickled(body))

    @pytest.mark.parametrize("body", [b"K\x01)R", b"}K\x01\x85R", text("os") + b")R", b"})\x81"])
    def test_only_entries_of_the_table_can_be_called(self, body):
        with pytest.raises(UnsafeCheckpoint, match=r"calls a|makes an object"):
            read_bytes(pickled(body))


@pytest.mark.usefixtures("runs_nothing")
class TestTensors:
    def test_a_pickle_inside_a_storage_is_refused_as_well(self, original):
        inner = original.dump(Reduces(os.system, "touch pwned"), 2)
        with pytest.raises(UnsafeCheckpoint, match="system"):
            read_bytes(pickled(storage(inner)))
        for end in range(5, len(FOUR), 40):
            with pytest.raises(ValueError, match=r"\w"):
                read_bytes(pickled(storage(FOUR[:end] + inner)))

    @pytest.mark.parametrize(
        ("offset", "size", "stride"),
        [
            (b"K\x00", b"M\xe8\x03\x85", b"K\x01\x85"),
            (b"K\x01", b"K\x04\x85", b"K\x01\x85"),
            (b"J\xff\xff\xff\xff", b"K\x04\x85", b"K\x01\x85"),
            (b"K\x00", b"K\x04\x85", b"J\xff\xff\xff\xff\x85"),
            (b"K\x00", b"J\xff\xff\xff\xff\x85", b"K\x01\x85"),
            (b"K\x00", b"K\x02K\x02\x86", b"K\x01\x85"),
            (b"K\x00", long(2**62) + b"\x85", b"K\x00\x85"),
            (b"K\x00", b"K\x01\x85", long(2**62) + b"\x85"),
            (b"K\x00", b"K\x00" + long(2**40) * 2 + b"\x87", b"K\x01K\x01K\x01\x87"),
            (b"K\x00", b"\x88\x85", b"K\x01\x85"),
            (b"K\x00", b"G?\xf0\x00\x00\x00\x00\x00\x00\x85", b"K\x01\x85"),
            (b"K\x00", b"(" + b"K\x01" * 40 + b"t", b"(" + b"K\x01" * 40 + b"t"),
        ],
    )
    def test_a_tensor_must_lie_inside_its_storage(self, offset, size, stride):
        with pytest.raises(UnsafeCheckpoint, match="holds a tensor"):
            read_bytes(pickled(tensor(storage(FOUR), offset, size, stride)))

    @pytest.mark.parametrize(
        "raw",
        [
            storage_header(torch.float32, 5, 0) + bytes(16),
            storage_header(torch.float32, 4, 0) + bytes(17),
            storage_header(torch.float32, 4, 0)[:-8] + struct.pack("<q", -4) + bytes(16),
            storage_header(torch.float32, 2**60, 0) + bytes(16),
            FOUR.replace(b"FloatStorage", b"EvilsStorage"),
            FOUR.replace(b"little_endian", b"little_endiam"),
            FOUR.replace(b"M\xe9\x03.", b"M\xe8\x03."),
            FOUR.replace(b"\x6c\xfc\x9c", b"\x6d\xfc\x9c"),
            FOUR.replace(b"NtQ.", b"KtQ."),
            FOUR.replace(b"storage", b"storagE"),
            FOUR.replace(b"NtQ.", b"\x88tQ."),
            storage_header(torch.bool, 4, 0) + b"\x00\x01\x02\x00",
            b"PK\x03\x04" + bytes(300),
            b"",
        ],
    )
    def test_a_storage_must_hold_what_it_declares(self, raw):
        body = tensor(storage(raw), b"K\x00", b"K\x04\x85", b"K\x01\x85")
        with pytest.raises(ValueError, match=r"\w"):
            read_bytes(pickled(body))

    def test_hooks_and_metadata_of_a_tensor_are_refused(self):
        good = tensor(storage(FOUR), b"K\x00", b"K\x04\x85", b"K\x01\x85")
        assert read_bytes(pickled(good)).shape == (4,)
        hook = text("hook") + b"K\x01stR"
        for bad in (good[:-2] + hook, good[:-2] + b"}" + hook):
            with pytest.raises(UnsafeCheckpoint, match="hooks or metadata"):
                read_bytes(pickled(bad))

    @pytest.mark.parametrize("dtype", [object, "U4", "S4", "c16", "M8[s]", [("a", "f4")]])
    def test_numpy_data_must_be_little_endian_numbers(self, dtype, original):
        with pytest.raises(UnsafeCheckpoint, match=r"NumPy data|refers to"):
            read_bytes(original.dump(np.zeros(2, dtype=dtype), 4))

    def test_big_endian_numpy_data_is_refused_clearly(self, original):
        with pytest.raises(ValueError, match=r"little endian"):
            read_bytes(original.dump(np.zeros(2, dtype=">f4"), 4))

    def test_a_numpy_array_must_fill_its_shape(self, original):
        raw = original.dump(np.arange(300, dtype=np.uint8), 3)
        assert raw.count(b"M,\x01\x85") == 1
        for shape in (b"M-\x01\x85", b"J\xff\xff\xff\xff\x85", long(2**62) + b"\x85"):
            with pytest.raises(ValueError, match="NumPy"):
                read_bytes(raw.replace(b"M,\x01\x85", shape))


class TestLimits:
    """Each of these is small on disk; none may cost much time or memory."""

    @pytest.fixture(autouse=True)
    def is_quick(self):
        start = time.process_time()
        yield
        assert time.process_time() - start < 10

    @pytest.mark.parametrize("opening", [b"]", b"}" + text("a"), b"("])
    def test_deep_nesting_is_refused(self, opening):
        closing = {b"]": b"a", b"(": b"t"}.get(opening, b"s")
        body = opening * 50_000 + b"N" + closing * 50_000
        with pytest.raises(ValueError, match=r"nested|exactly one"):
            read_bytes(pickled(body))

    def test_a_value_that_holds_itself_is_refused(self):
        with pytest.raises(UnsafeCheckpoint, match="holds itself"):
            read_bytes(pickled(b"]\x94h\x00a"))
        with pytest.raises(UnsafeCheckpoint, match="holds itself"):
            read_bytes(pickled(b"}\x94" + text("a") + b"h\x00\x85s"))

    def test_doubling_by_the_memo_costs_nothing(self):
        body = b"]"
        for level in range(60):
            body += b"\x94](" + b"h" + bytes([level]) + b"h" + bytes([level]) + b"e"
        with pytest.raises(ValueError, match="exactly one"):
            read_bytes(pickled(body))
        nested = b"".join(b"\x94h" + bytes([level]) + b"\x86" for level in range(60))
        value = read_bytes(pickled(b")" + nested))
        for _ in range(60):
            assert value[0] is value[1]
            value = value[0]

    def test_a_key_that_is_dear_to_hash_is_refused(self):
        for key in (b")", b"G" + bytes(8), long(2**60), b"]"):
            with pytest.raises(UnsafeCheckpoint, match="as a key"):
                read_bytes(pickled(b"}" + key + b"Ns"))

    @pytest.mark.parametrize(
        "body",
        [
            b"X\xff\xff\xff\xff",
            b"B\xff\xff\xff\xff",
            b"\x8d" + b"\xff" * 8,
            b"\x8e" + b"\xff" * 8,
            b"\x96" + b"\xff" * 7 + b"\x7f",
            b"\x95" + b"\xff" * 8,
            b"\x8b\xff\xff\xff\x7f",
            b"\x8b\xff\xff\xff\xff",
        ],
    )
    def test_a_declared_size_is_compared_with_what_is_there(self, body):
        with pytest.raises(ValueError, match=r"ends too early|integer"):
            read_bytes(pickled(body))

    def test_one_storage_cannot_be_unpacked_again_and_again(self):
        raw = storage_header(torch.uint8, 2**20, 0) + bytes(2**20)
        start = storage(raw) + b"\x94" + name("torch._utils", "_rebuild_tensor") + b"\x940"
        start = start[:-1] + b"\x85\x85"  # both stay on the stack, in a tuple
        again = b"h\x01(h\x00K\x00" + b"J\x00\x00\x10\x00\x85K\x01\x85tR"
        with pytest.raises(UnsafeCheckpoint, match="unpacks to more"):
            read_bytes(pickled(start + again * 100))

    def test_an_expanded_tensor_counts_with_all_its_elements(self):
        body = tensor(storage(FOUR), b"K\x00", b"J\x00\x00\x00\x40\x85", b"K\x00\x85")
        with pytest.raises(UnsafeCheckpoint, match="unpacks to more"):
            read_bytes(pickled(body))

    def test_too_many_opcodes_are_refused(self):
        with pytest.raises(UnsafeCheckpoint, match="opcodes"):
            read_bytes(pickled(b"]" + b"Na" * 600_000))

    def test_a_list_cannot_be_made_a_set_again_and_again(self):
        items = b"](" + text("a") * 100_000 + b"e\x94"
        again = name("builtins", "set") + b"h\x00\x85R"
        with pytest.raises(UnsafeCheckpoint, match="unpacks to more"):
            read_bytes(pickled(items + again * 1000))
