"""Methods of losses as targets of XLA's foreign function interface: a compiled program calls them without copies.

XLA hands over a frame of C structures (``xla/ffi/api/c_api.h`` in jaxlib) that points to its buffers, the results' too.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import mmap
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from typing import Any, ClassVar

import jax
import numpy as np

from fastloss._core import Loss
from fastloss.backends import check_own, loss_of, mapping

TARGET = "fastloss_call"

LOG = logging.getLogger("fastloss")

# dtypes that losses take, by XLA's number
DTYPES = {
    1: np.dtype(np.bool_),
    2: np.dtype(np.int8),
    3: np.dtype(np.int16),
    4: np.dtype(np.int32),
    5: np.dtype(np.int64),
    6: np.dtype(np.uint8),
    7: np.dtype(np.uint16),
    8: np.dtype(np.uint32),
    9: np.dtype(np.uint64),
    10: np.dtype(np.float16),
    11: np.dtype(np.float32),
    12: np.dtype(np.float64),
    16: np.dtype(jax.numpy.bfloat16),
}
# bytes of a result from which on huge pages are asked for, as NumPy does for its own arrays
LARGE = 1 << 22
HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)
METADATA_EXTENSION = 1
CANCELLED = 1
INVALID_ARGUMENT = 3
# of the interface, of which the structures below are
VERSION = 0, 1


class Head(ctypes.Structure):
    """What XLA's structures begin with."""

    _fields_: ClassVar[Any] = (("struct_size", c_size_t), ("extension", c_void_p))


class Version(Head):
    _fields_ = (("major", c_int), ("minor", c_int))


class Api(Head):
    _fields_ = (("version", Version), ("internal", c_void_p), ("create_error", c_void_p))


class ErrorArguments(Head):
    _fields_ = (("message", c_char_p), ("code", c_int))


class Buffer(Head):
    _fields_ = (("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", POINTER(c_int64)))


class Values(Head):
    """Arguments or results."""

    _fields_ = (("size", c_int64), ("types", c_void_p), ("values", POINTER(POINTER(Buffer))))


class Text(ctypes.Structure):
    _fields_ = (("start", c_void_p), ("size", c_size_t))


class Attributes(Head):
    _fields_ = (("size", c_int64), ("types", c_void_p), ("names", c_void_p), ("values", POINTER(POINTER(Text))))


class Frame(Head):
    _fields_ = (
        ("api", POINTER(Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", Values),
        ("results", Values),
        ("attributes", Attributes),
    )


class Metadata(ctypes.Structure):
    _fields_ = (("struct_size", c_size_t), ("version", Version), ("traits", c_uint32))


class MetadataExtension(ctypes.Structure):
    _fields_ = (("struct_size", c_size_t), ("type", c_int), ("next", c_void_p), ("metadata", POINTER(Metadata)))


@functools.lru_cache(maxsize=1024)
def parse(call: str) -> tuple[str, Loss, list[str], tuple[str, ...], int, bool]:
    method, expression, names, wrt, ndim, is_part = call.split(";")
    return method, loss_of(expression), names.split(), tuple(wrt.split()), int(ndim), bool(is_part)


def spell(method: str, loss: Loss, names: Sequence[str], wrt: Sequence[str], ndim: int, is_part: bool) -> str:
    """A call as an attribute of the target: the method, the loss, the given inputs, the inputs to differentiate.

    ndim is the number of axes of the first result; further axes in front are those that vmap has added. is_part: other
    devices make calls of their own, as inside shard_map.
    """
    check_own(loss)
    return ";".join([method, loss.expression, " ".join(names), " ".join(wrt), str(ndim), "part" * is_part])


def array(buffer: Buffer) -> Any:
    """An array over XLA's memory."""
    shape, dtype = buffer.dims[: buffer.rank], DTYPES[buffer.dtype]
    size = math.prod(shape) * dtype.itemsize
    memory: Any = (ctypes.c_char * size).from_address(buffer.data) if size else bytearray()
    return np.ndarray(shape, dtype, memory)


def arrays(values: Values) -> list[Any]:
    return [array(values.values[k].contents) for k in range(values.size)]


def advise(x: Any) -> None:
    """Asks for huge pages under a result that nobody has written yet; the system may not have them."""
    start = x.ctypes.data + -x.ctypes.data % mmap.PAGESIZE
    size = (x.ctypes.data + x.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    ctypes.CDLL(None).madvise(c_void_p(start), c_size_t(size), HUGE_PAGES)


def run(call: str, inputs: list[Any], results: list[Any]) -> None:
    """Fills the results, which lie flat and may have axes in front that vmap has added."""
    method, loss, names, wrt, ndim, is_part = parse(call)
    for x in results if HUGE_PAGES is not None else ():
        if x.nbytes >= LARGE:
            advise(x)
    try:
        mapping.call(loss, method, dict(zip(names, inputs, strict=True)), results[0].ndim - ndim, wrt, results)
    except Exception as error:
        if not is_part:
            raise
        # If one device failed, the others would wait for it in sums, until XLA ends the process.
        for x in results:  # no cover: in threads of XLA's, which nobody traces
            x.fill(np.nan)
        LOG.error("a loss inside shard_map failed on a device: its results are NaN: %r", error)  # no cover: as above


@ctypes.CFUNCTYPE(c_void_p, POINTER(Frame))
def handle(pointer: Any) -> int | None:
    """The function that XLA calls, to ask for the version and for every execution."""
    frame = pointer.contents
    if frame.extension:
        extension = MetadataExtension.from_address(frame.extension)
        if extension.type == METADATA_EXTENSION:  # no branch: XLA has sent no other so far
            version = extension.metadata.contents.version
            version.major, version.minor = VERSION
            return None
    try:
        text = frame.attributes.values[0].contents
        run(ctypes.string_at(text.start, text.size).decode(), arrays(frame.arguments), arrays(frame.results))
    except BaseException as error:
        # A KeyboardInterrupt, too: XLA would take results that are not filled.
        message = f"{type(error).__name__}: {error}".encode()
        code = INVALID_ARGUMENT if isinstance(error, Exception) else CANCELLED
        arguments = ErrorArguments(ctypes.sizeof(ErrorArguments), None, message, code)
        create: Any = ctypes.CFUNCTYPE(c_void_p, POINTER(ErrorArguments))(frame.api.contents.create_error)
        return create(ctypes.byref(arguments))  # type: ignore[no-any-return]
    return None


capsule: Any = jax.ffi.pycapsule
jax.ffi.register_ffi_target(TARGET, capsule(handle), platform="cpu", api_version=1)
