"""A CUDA device that is not there: tensors of the CPU, tagged by their storage as on cuda:0.

Inside `virtual_cuda()` everything is computed by the CPU, and what the program sees of devices is
as if it were not. An operation on tensors of both devices fails as it would; whatever keeps the
host waiting for the device is counted. Make all tensors inside: earlier ones are taken for either.

What CUDA does, and torch for it (2.13): a copy between the two waits unless it is non_blocking and
from, or to, pinned memory; reading a number waits; so does what has as many results as its values
say (nonzero, a mask as an index), and what checks its result on the host (eigenvalues).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda:0")
NN: Any = torch._C._nn  # type: ignore[attr-defined] -- in C, where no type checker looks
CPU = torch.device("cpu")

WAITING = {
    *("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "_linalg_eigh", "_linalg_svd"),
    *("linalg_eig", "linalg_lstsq", "_linalg_check_errors", "_linalg_solve_ex", "linalg_inv_ex"),
}
COPYING = {"copy_", "_to_copy"}
# Of which a tensor without dimensions is none that the host reads for the device.
STRICT = {"cat", "stack"}


class MixedDevices(RuntimeError):
    """An operation met tensors of the CPU and of the device."""


class Ledger:
    """Which storages are where, and what the host waited for.

    Attributes:
        waits: how often, by what.
    """

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.places: dict[int, tuple[StorageWeakRef, str]] = {}

    def wait(self, what: str) -> None:
        """Count a wait."""
        self.waits[what] += 1

    def take(self) -> Counter[str]:
        """Return what was counted and begin anew."""
        found, self.waits = self.waits, Counter()
        return found

    def place(self, tensor: torch.Tensor) -> str:
        """Return "device", "host", "pinned", or "" for a tensor that is neither's."""
        found = self.places.get(tensor.untyped_storage()._cdata)
        return found[1] if found else ""

    def is_on_device(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is on the virtual device."""
        return self.place(tensor) == "device"

    def put(self, tensor: torch.Tensor, place: str) -> torch.Tensor:
        """Say where a tensor is; the reference keeps its storage's number from others."""
        if len(self.places) > 100_000:
            self.places = {k: v for k, v in self.places.items() if not v[0].expired()}
        storage = tensor.untyped_storage()
        self.places[storage._cdata] = (StorageWeakRef(storage), place)
        return tensor


def tensors_in(value: object) -> list[torch.Tensor]:
    """Return the tensors of nested arguments."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def is_cuda(device: object) -> bool:
    """Whether an argument names the virtual device."""
    return isinstance(device, (str, torch.device)) and torch.device(device).type == "cuda"


class Faces(TorchFunctionMode):
    """What Python sees: devices of tensors, copies, factories."""

    def __init__(self, ledger: Ledger):
        super().__init__()
        self.ledger = ledger
        self.special: dict[Any, Callable[..., Any]] = {
            torch.Tensor.device.__get__: self.device,  # type: ignore[attr-defined] -- a getset descriptor
            torch.Tensor.is_cuda.__get__: lambda x: ledger.is_on_device(x),  # type: ignore[attr-defined]
            torch.Tensor.is_cpu.__get__: lambda x: not ledger.is_on_device(x),  # type: ignore[attr-defined]
            torch.Tensor.to: self.to,
            torch.Tensor.cpu: lambda x, **_: self.move(x, CPU),
            torch.Tensor.cuda: lambda x, *_, **__: self.move(x, CUDA),
            torch.Tensor.pin_memory: self.pin_memory,
            torch.Tensor.is_pinned: lambda x, *_: ledger.place(x) == "pinned",
            torch.Tensor.tolist: self.read(torch.Tensor.tolist),
            torch.Tensor.numpy: self.only_of_host(torch.Tensor.numpy),
            torch.Tensor.__array__: self.only_of_host(torch.Tensor.__array__),
            torch.Tensor.__deepcopy__: self.same_place(torch.Tensor.__deepcopy__),
            torch.nn.functional.one_hot: self.one_hot,
            torch.as_tensor: self.as_tensor,
            torch.tensor: self.as_tensor,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self.special:
            return self.special[func](*args, **kwargs)
        device = kwargs.get("device")
        on_cuda = is_cuda(device)
        if on_cuda:
            kwargs["device"] = CPU
        found = func(*args, **kwargs)
        if not isinstance(found, torch.Tensor):
            return found
        if on_cuda:
            return self.ledger.put(found, "device")
        made_here = device is not None or not tensors_in((args, kwargs))
        return (
            self.ledger.put(found, "host") if made_here and not self.ledger.place(found) else found
        )

    def device(self, x: torch.Tensor, *_: Any) -> torch.device:
        return CUDA if self.ledger.is_on_device(x) else torch.Tensor.device.__get__(x)  # type: ignore[attr-defined]

    def to(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        copy = bool(kwargs.pop("copy", False))
        device, dtype, non_blocking, form = NN._parse_to(*args, **kwargs)
        return self.move(
            x, device, dtype=dtype, non_blocking=non_blocking, copy=copy, form=form
        )  # fmt: skip

    def move(
        self,
        x: torch.Tensor,
        device: torch.device | None,
        *,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
        copy: bool = False,
        form: torch.memory_format | None = None,
    ) -> torch.Tensor:
        """Copy where the device, the type or the layout changes, as Tensor.to does."""
        source = self.ledger.place(x)
        there = is_cuda(device) if device is not None else source == "device"
        moves = (source == "device") != there
        options: dict[str, Any] = {} if form is None else {"memory_format": form}
        found = x.to(dtype=dtype or x.dtype, copy=copy or moves, **options)
        if not moves:
            return found
        if there and not (non_blocking and source == "pinned"):
            self.ledger.wait("copy to the device")
        if not there and not non_blocking:
            self.ledger.wait("copy to the host")
        return self.ledger.put(found, "device" if there else "pinned" if non_blocking else "host")

    def pin_memory(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
        if self.ledger.is_on_device(x):
            raise RuntimeError("only dense CPU tensors can be pinned")
        return self.ledger.put(x.clone(), "pinned")

    def read(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def reading(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.ledger.is_on_device(x):
                self.ledger.wait("reading numbers")
            return function(x, *args, **kwargs)

        return reading

    def only_of_host(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def reading(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.ledger.is_on_device(x):
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            return function(x, *args, **kwargs)

        return reading

    def same_place(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def copied(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            place = self.ledger.place(x)
            found = function(x, *args, **kwargs)
            return self.ledger.put(found, place) if place else found

        return copied

    def one_hot(self, x: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
        """A CPU looks at the numbers first; CUDA does so only to find out how many there are."""
        before = self.ledger.waits.copy()
        found = NN.one_hot(x, num_classes)
        if num_classes >= 0:
            self.ledger.waits = before
        return found

    def as_tensor(self, data: object, **kwargs: Any) -> torch.Tensor:
        device = kwargs.pop("device", None)
        if isinstance(data, torch.Tensor):
            return self.move(data, device, dtype=kwargs.get("dtype"))
        found = torch.tensor(data, **kwargs)
        if is_cuda(device):
            self.ledger.wait("copy to the device")
        return self.ledger.put(found, "device" if is_cuda(device) else "host")


class Operations(TorchDispatchMode):
    """What is computed: where results are, whether operands are on one device, and what waits."""

    def __init__(self, ledger: Ledger):
        super().__init__()
        self.ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        name, ledger = func.overloadpacket.__name__, self.ledger
        tensors = tensors_in((args, kwargs))
        places = [ledger.place(x) for x in tensors]
        on_device = "device" in places
        hosts = [
            x for x, place in zip(tensors, places, strict=True)
            if place in ("host", "pinned") and (x.ndim or name in STRICT)
        ]  # fmt: skip
        if name == "copy_":
            self.copies(*args, **kwargs)
        elif on_device and hosts and name in ("index", "index_put_", "_index_put_impl_"):
            ledger.wait("copy of an index")
        elif on_device and hosts and name not in COPYING:
            shapes = [(place, list(x.shape)) for x, place in zip(tensors, places, strict=True)]
            raise MixedDevices(f"{name}: {shapes}")
        elif on_device and (name in WAITING or self.is_masked(name, args)):
            ledger.wait(name.lstrip("_"))
        found = func(*args, **kwargs)
        if on_device and name != "copy_":
            for x in tensors_in(found):
                ledger.put(x, "device")
        return found

    def copies(
        self, target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False
    ) -> None:
        """Count a copy that waits."""
        to, of = self.ledger.place(target), self.ledger.place(source)
        if to == "device" and of in ("host", "pinned") and source.ndim + 1:
            if not (non_blocking and of == "pinned"):
                self.ledger.wait("copy to the device")
        elif to in ("host", "pinned") and of == "device" and not non_blocking:
            self.ledger.wait("copy to the host")

    def is_masked(self, name: str, args: Any) -> bool:
        """Whether an index is a mask, whose ones have to be counted first."""
        if name not in ("index", "index_put_", "_index_put_impl_"):
            return False
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


@contextmanager
def virtual_cuda() -> Iterator[Ledger]:
    """Be on a machine with a CUDA device inside, as far as tensors and random streams show."""
    ledger = Ledger()

    class Event:
        """A point on the device's way, which the host can wait for."""

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def record(self, *_: Any) -> None:
            pass

        def synchronize(self) -> None:
            ledger.wait("an event")

    parse_to = NN._parse_to

    def parse(*args: Any, **kwargs: Any) -> Any:
        """Tell where to and of which type, also where that is as another tensor is."""
        for other in tensors_in((args, kwargs)):
            return CUDA if ledger.is_on_device(other) else CPU, other.dtype, False, None
        return parse_to(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(NN, "_parse_to", parse))
        # What is drawn on the device comes from the CPU's stream here, which is kept beside.
        stack.enter_context(
            mock.patch.object(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state())
        )
        stack.enter_context(mock.patch.object(torch.cuda, "set_rng_state", lambda *_: None))
        stack.enter_context(mock.patch.object(torch.cuda, "Event", Event))
        stack.enter_context(Operations(ledger))
        stack.enter_context(Faces(ledger))
        yield ledger
