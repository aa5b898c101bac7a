"""A pickle machine that can build plain values and nothing else.

It knows the opcodes that Python's pickler writes at protocols 2 to 5 for values and objects, and no
others. It imports nothing. A global is a key of the table it was given, compared as a full (module,
name) pair; REDUCE reaches only `Call` entries, with checked argument types; NEWOBJ only `New`
entries; BUILD only what the function it was given takes. What a value means (tensor, network) is
not decided here. The opcodes are described in the Python sources, Lib/pickletools.py.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from typing import TypeVar, cast

from checkpoints.pickles.names import Call, Names, New
from checkpoints.pickles.window import Window
from checkpoints.records import DICTS, Key, Record, UnsafeCheckpoint
from roles.shown import shown

MAX_OPCODES = 1_000_000  # ten times what the largest published networks need
MAX_INTEGER_BYTES = 64

Build = Callable[[object, object], None]
Container = TypeVar("Container")


def refuse_build(target: object, state: object) -> None:
    """Take no BUILD at all."""
    raise UnsafeCheckpoint(f"sets the state of a {type(target).__name__}")


def refuse_persistent(identifier: object) -> object:
    """Take no persistent identifier at all."""
    raise UnsafeCheckpoint("holds a persistent identifier outside of a tensor storage")


class Machine:
    """Runs one pickle of a window, from its PROTO opcode to its STOP."""

    def __init__(
        self,
        window: Window,
        names: Names,
        *,
        build: Build = refuse_build,
        persistent: Callable[[object], object] = refuse_persistent,
        takes_foreign: bool = False,
    ) -> None:
        self.window = window
        self.names = names
        self.build = build
        self.persistent = persistent
        self.takes_foreign = takes_foreign
        self.stack: list[object] = []
        self.below: list[list[object]] = []  # the stacks under each open MARK
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """Give the one value that the pickle leaves."""
        take = self.window.take
        if take(1) != b"\x80":
            raise ValueError("is not a pickle of protocol 2 to 5")
        self._proto()
        for _ in range(MAX_OPCODES):
            code = take(1)
            if code == b".":
                if self.below or len(self.stack) != 1:
                    raise ValueError("is a broken pickle: it does not end with exactly one value")
                return self.stack.pop()
            if code not in OPCODES:
                raise self._unknown(code)
            _, method, args = OPCODES[code]
            method(self, *args)
        raise UnsafeCheckpoint(f"has more than {MAX_OPCODES} opcodes")

    def _unknown(self, code: bytes) -> ValueError:
        for opcode in pickletools.opcodes:
            if opcode.code == code.decode("latin-1"):
                return UnsafeCheckpoint(f"uses {opcode.name}, an opcode that no network file needs")
        return ValueError(f"is a broken pickle: byte {self.window.position - 1} is no opcode")

    def _unpack(self, layout: str) -> int:
        return struct.unpack(layout, self.window.take(struct.calcsize(layout)))[0]

    def _top(self) -> object:
        if not self.stack:
            raise ValueError("is a broken pickle: its stack runs empty")
        return self.stack[-1]

    def _pop(self) -> object:
        self._top()
        return self.stack.pop()

    def _pop_mark(self) -> list[object]:
        if not self.below:
            raise ValueError("is a broken pickle: it closes a mark that it never set")
        items, self.stack = self.stack, self.below.pop()
        return items

    def _foreign(self, opcode: bytes, argument: object) -> bool:
        """Keep what is done with the object on top, and do nothing, if it is a foreign one."""
        target = self._top()
        if type(target) is not Record or not target.steps:
            return False
        target.step(opcode, argument)
        return True

    def _target(self, *kinds: type[Container]) -> Container:
        target = self._top()
        if type(target) not in kinds:
            raise UnsafeCheckpoint(f"adds items to a {type(target).__name__}")
        return cast("Container", target)

    # Frames and protocol.

    def _proto(self) -> None:
        protocol = self._unpack("<B")
        if not 2 <= protocol <= 5:
            raise ValueError(f"is a pickle of protocol {protocol}; 2 to 5 can be read")

    def _frame(self) -> None:
        size = self._unpack("<Q")
        if size > self.window.stop - self.window.position:
            raise ValueError(f"ends too early: a frame of {size} bytes is cut off")

    # Atoms.

    def _constant(self, value: bool | None) -> None:
        self.stack.append(value)

    def _number(self, layout: str) -> None:
        self.stack += struct.unpack(layout, self.window.take(struct.calcsize(layout)))

    def _integer(self, layout: str) -> None:
        size = self._unpack(layout)
        if size > MAX_INTEGER_BYTES:
            raise UnsafeCheckpoint(f"holds an integer of {size} bytes; {MAX_INTEGER_BYTES} may be")
        self.stack.append(int.from_bytes(self.window.take(size), "little", signed=True))

    def _text(self, layout: str) -> None:
        self.stack.append(text(self.window.take(self._unpack(layout))))

    def _bytes(self, layout: str) -> None:
        self.stack.append(self.window.skip(self._unpack(layout)))

    # Containers.

    def _empty(self, kind: type) -> None:
        self.stack.append(kind())

    def _mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _tuple_to_mark(self) -> None:
        items = self._pop_mark()
        self.stack.append(tuple(items))

    def _tuple(self, length: int) -> None:
        items = [self._pop() for _ in range(length)]
        self.stack.append(tuple(reversed(items)))

    def _append(self) -> None:
        item = self._pop()
        if not self._foreign(b"e", [item]):
            self._target(list).append(item)

    def _appends(self) -> None:
        items = self._pop_mark()
        if not self._foreign(b"e", items):
            self._target(list).extend(items)

    def _setitem(self) -> None:
        value, key = self._pop(), self._pop()
        if not self._foreign(b"u", [key, value]):
            self._target(*DICTS)[checked_key(key)] = value

    def _setitems(self) -> None:
        items = self._pop_mark()
        if len(items) % 2:
            raise ValueError("is a broken pickle: a key has no value")
        if self._foreign(b"u", items):
            return
        target = self._target(*DICTS)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def _additems(self) -> None:
        items = self._pop_mark()
        if not self._foreign(b"\x90", items):
            self._target(set).update(map(checked_key, items))

    # Memo.

    def _memoize(self) -> None:
        self.memo[len(self.memo)] = self._top()

    def _put(self, layout: str) -> None:
        self.memo[self._unpack(layout)] = self._top()

    def _get(self, layout: str) -> None:
        index = self._unpack(layout)
        if index not in self.memo:
            raise ValueError(f"is a broken pickle: memo entry {index} was never set")
        self.stack.append(self.memo[index])

    # Names and objects.

    def _global(self) -> None:
        self._find(text(self.window.line()), text(self.window.line()))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(module) is not str or type(name) is not str:
            raise ValueError("is a broken pickle: the name of a global is not text")
        self._find(module, name)

    def _find(self, module: str, name: str) -> None:
        if (module, name) in self.names:
            found = self.names[module, name]
        else:
            wanted = shown(f"{module}.{name}", quoted=False)
            why = f"refers to {wanted}, a name that no network file needs"
            if not self.takes_foreign:
                raise UnsafeCheckpoint(why)
            found = Record(name, None, None, {}, module=module, foreign=why)
        self.window.budget.names.add(f"{module}.{name}")
        self.stack.append(found)

    def _reduce(self) -> None:
        args, function = self._pop(), self._pop()
        if type(function) is Record and function.foreign and type(args) is tuple:
            self.stack.append(function.result(b"R", args))
            return
        if type(function) is not Call or type(args) is not tuple:
            raise UnsafeCheckpoint(f"calls a {type(function).__name__}")
        if not function.accepts(args):
            kinds = ", ".join(type(arg).__name__ for arg in args[:10])
            name = function.function.__name__
            raise ValueError(f"is a broken pickle: wrong arguments for {name} ({kinds})")
        # Work grows with the arguments, and the memo can offer the same ones again and again.
        self.window.budget.spend(sum(len(arg) for arg in args if isinstance(arg, (str, tuple))))
        self.window.budget.spend(sum(8 * len(arg) for arg in args if isinstance(arg, list | dict)))
        self.stack.append(function.function(*args))

    def _newobj(self) -> None:
        args, kind = self._pop(), self._pop()
        if type(kind) is Record and kind.foreign and type(args) is tuple:
            self.stack.append(kind.result(b"\x81", args))
            return
        if type(kind) is not New or type(args) is not tuple or args:
            raise UnsafeCheckpoint(f"makes an object of a {type(kind).__name__} with arguments")
        self.stack.append(kind.function())

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        self.build(target, state)
        self.stack.append(target)

    def _persistent(self) -> None:
        self.stack.append(self.persistent(self._pop()))


def text(raw: bytes) -> str:
    """The string of UTF-8 bytes; lone surrogates pass, as in Python's own pickles."""
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise ValueError(f"is a broken pickle: text that is not UTF-8 ({error.reason})") from None


def checked_key(key: object) -> Key:
    """A dict key or set member whose hash is cheap and cannot be made to collide."""
    if key is None or type(key) is str or type(key) is bool:
        return key
    if type(key) is int and abs(key) < 2**32:
        return key
    kind = type(key).__name__
    raise UnsafeCheckpoint(f"uses a {kind} as a key; names and small integers may be keys")


# Opcode: its name in pickletools, the method that runs it, the method's arguments.
OPCODES: dict[bytes, tuple[str, Callable[..., None], tuple[object, ...]]] = {
    b"\x80": ("PROTO", Machine._proto, ()),
    b"\x95": ("FRAME", Machine._frame, ()),
    b"N": ("NONE", Machine._constant, (None,)),
    b"\x88": ("NEWTRUE", Machine._constant, (True,)),
    b"\x89": ("NEWFALSE", Machine._constant, (False,)),
    b"J": ("BININT", Machine._number, ("<i",)),
    b"K": ("BININT1", Machine._number, ("<B",)),
    b"M": ("BININT2", Machine._number, ("<H",)),
    b"G": ("BINFLOAT", Machine._number, (">d",)),
    b"\x8a": ("LONG1", Machine._integer, ("<B",)),
    b"\x8b": ("LONG4", Machine._integer, ("<i",)),
    b"\x8c": ("SHORT_BINUNICODE", Machine._text, ("<B",)),
    b"X": ("BINUNICODE", Machine._text, ("<I",)),
    b"\x8d": ("BINUNICODE8", Machine._text, ("<Q",)),
    b"C": ("SHORT_BINBYTES", Machine._bytes, ("<B",)),
    b"B": ("BINBYTES", Machine._bytes, ("<I",)),
    b"\x8e": ("BINBYTES8", Machine._bytes, ("<Q",)),
    b"\x96": ("BYTEARRAY8", Machine._bytes, ("<Q",)),
    b"]": ("EMPTY_LIST", Machine._empty, (list,)),
    b"}": ("EMPTY_DICT", Machine._empty, (dict,)),
    b"\x8f": ("EMPTY_SET", Machine._empty, (set,)),
    b"(": ("MARK", Machine._mark, ()),
    b"t": ("TUPLE", Machine._tuple_to_mark, ()),
    b")": ("EMPTY_TUPLE", Machine._tuple, (0,)),
    b"\x85": ("TUPLE1", Machine._tuple, (1,)),
    b"\x86": ("TUPLE2", Machine._tuple, (2,)),
    b"\x87": ("TUPLE3", Machine._tuple, (3,)),
    b"a": ("APPEND", Machine._append, ()),
    b"e": ("APPENDS", Machine._appends, ()),
    b"s": ("SETITEM", Machine._setitem, ()),
    b"u": ("SETITEMS", Machine._setitems, ()),
    b"\x90": ("ADDITEMS", Machine._additems, ()),
    b"\x94": ("MEMOIZE", Machine._memoize, ()),
    b"q": ("BINPUT", Machine._put, ("<B",)),
    b"r": ("LONG_BINPUT", Machine._put, ("<I",)),
    b"h": ("BINGET", Machine._get, ("<B",)),
    b"j": ("LONG_BINGET", Machine._get, ("<I",)),
    b"c": ("GLOBAL", Machine._global, ()),
    b"\x93": ("STACK_GLOBAL", Machine._stack_global, ()),
    b"R": ("REDUCE", Machine._reduce, ()),
    b"\x81": ("NEWOBJ", Machine._newobj, ()),
    b"b": ("BUILD", Machine._build, ()),
    b"Q": ("BINPERSID", Machine._persistent, ()),
}
