"""What the compiled functions are made with: the compiler's settings, and steps of 8 and 32 bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # has no types
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from numba.np import arrayobj

make_array: Any = arrayobj.make_array
tuple_of: Any = types.Tuple
#: The system's: reads bytes of an open file at a place into memory, without the interpreter's lock.
pread: Any = types.ExternalFunction("pread", types.intp(types.int32, types.uintp, types.uintp, types.int64))
#: The same into many pieces of memory, which are named by address and length one after another.
preadv: Any = types.ExternalFunction("preadv", types.intp(types.int32, types.uintp, types.int32, types.int64))
_WIDE = 32
Function = TypeVar("Function", bound=Callable[..., Any])


def forget_older(folder: Path) -> None:
    """Forget what was compiled beside modules in a folder before any of them changed.

    Functions are compiled into those that call them, and numba looks at the caller's module only: after an update it
    would go on with the callee as it was, and with its layout of the tables.
    """
    changed = max(path.stat().st_mtime_ns for path in folder.glob("*.py"))
    for index in (folder / "__pycache__").glob("*.nbi"):
        with suppress(OSError):  # another process does the same, or nothing can be changed here
            if index.stat().st_mtime_ns < changed:
                index.unlink()


forget_older(Path(__file__).parent)


def compiled(function: Function) -> Function:
    """Compile at the first call, and let go of the interpreter's lock while running.

    What was compiled is kept: beside the module, or below ``NUMBA_CACHE_DIR`` or the user's cache folder. Where none of
    them can be written, every process compiles anew. The functions hold no references to their arrays: counting
    references takes four times as long as the walk.
    """
    njit: Any = numba.njit  # its types do not know all its settings
    try:
        made: Function = njit(cache=True, nogil=True, _nrt=False)(function)
    except RuntimeError:  # "no locator available": nowhere to keep it
        made = njit(nogil=True, _nrt=False)(function)
    return made


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function for compiled functions, given as what it compiles to."""
    made: Callable[..., Any] = numba_intrinsic(function)
    return made


@intrinsic
def load(typing: Any, text: Any, at: Any) -> Any:
    """Eight bytes of a text from ``at`` on, as a little-endian number."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(text, types.int64), code


@intrinsic
def store(typing: Any, text: Any, at: Any, value: Any) -> Any:
    """Write eight bytes of a text from ``at`` on."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], place, align=1)
        return context.get_dummy_value()

    return types.void(text, types.int64, types.uint64), code


@intrinsic
def byte(typing: Any, text: Any, at: Any) -> Any:
    """A byte of a text; unlike ``text[at]``, no step is spent on places that count from the end."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        return builder.zext(builder.load(builder.gep(array.data, [arguments[1]])), ir.IntType(64))

    return types.int64(text, types.int64), code


@intrinsic
def item(typing: Any, array: Any, at: Any) -> Any:
    """The same of an array of numbers, whose rows lie one after another."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = make_array(signature.args[0])(context, builder, arguments[0])
        number = builder.load(builder.gep(found.data, [arguments[1]]))
        return number if number.type.width == 64 else builder.sext(number, ir.IntType(64))

    return types.int64(array, types.int64), code


@intrinsic
def put(typing: Any, array: Any, at: Any, value: Any) -> Any:
    """Write a number, or a byte, into an array."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(found.data, [arguments[1]])
        wanted = place.type.pointee
        value = arguments[2] if wanted.width == 64 else builder.trunc(arguments[2], wanted)
        builder.store(value, place)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), code


@intrinsic
def marks(typing: Any, text: Any, at: Any) -> Any:
    """Of 32 bytes of a text from ``at`` on, the lowest bit for the first of them, three sets as bits of a number.

    Those that end or interrupt a string (quote, backslash, control characters), those beyond ASCII, and blanks.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        wide = ir.VectorType(ir.IntType(8), _WIDE)
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), wide.as_pointer())
        found = builder.load(place, align=1)

        def all_of(byte: int) -> Any:
            return ir.Constant(wide, [byte] * _WIDE)

        def bits(lanes: Any) -> Any:
            return builder.zext(builder.bitcast(lanes, ir.IntType(_WIDE)), ir.IntType(64))

        ends = builder.or_(
            builder.icmp_unsigned("==", found, all_of(34)),
            builder.or_(builder.icmp_unsigned("==", found, all_of(92)), builder.icmp_unsigned("<", found, all_of(32))),
        )
        high = builder.icmp_unsigned(">", found, all_of(127))
        blank = builder.icmp_unsigned("==", found, all_of(32))
        return context.make_tuple(builder, signature.return_type, [bits(lanes) for lanes in (ends, high, blank)])

    number = types.int64
    return tuple_of((number, number, number))(text, number), code


@intrinsic
def not_of_ids(typing: Any, text: Any, at: Any) -> Any:
    """Of 32 bytes of a text from ``at`` on, as bits of a number: those that no id has (letters, digits, - and .)."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        wide = ir.VectorType(ir.IntType(8), _WIDE)
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), wide.as_pointer())
        found = builder.load(place, align=1)

        def all_of(byte: int) -> Any:
            return ir.Constant(wide, [byte] * _WIDE)

        def beyond(lanes: Any, first: int, last: int) -> Any:
            return builder.icmp_unsigned(">", builder.sub(lanes, all_of(first)), all_of(last - first))

        letters = beyond(builder.or_(found, all_of(32)), 97, 122)
        digits = beyond(found, 48, 57)
        marks = beyond(found, 45, 46)
        other = builder.and_(letters, builder.and_(digits, marks))
        return builder.zext(builder.bitcast(other, ir.IntType(_WIDE)), ir.IntType(64))

    return types.int64(text, types.int64), code


@intrinsic
def lay(typing: Any, a: Any, i: Any, b: Any, j: Any) -> Any:
    """Copy 32 bytes of a text into another."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.VectorType(ir.IntType(64), _WIDE // 8).as_pointer()
        kinds = signature.args[0], signature.args[2]
        one, other = (make_array(kind)(context, builder, arguments[2 * n]) for n, kind in enumerate(kinds))
        source = builder.bitcast(builder.gep(one.data, [arguments[1]]), wide)
        target = builder.bitcast(builder.gep(other.data, [arguments[3]]), wide)
        builder.store(builder.load(source, align=1), target, align=1)
        return context.get_dummy_value()

    return types.void(a, types.int64, b, types.int64), code


@intrinsic
def lowest(typing: Any, bits: Any) -> Any:
    """Number of the lowest bit that is set."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.true_bit)

    return types.int64(types.int64), code


@compiled
def same(a: np.ndarray, i: int, b: np.ndarray, j: int, length: int) -> bool:
    """Whether two pieces of texts are equal; reads up to 7 bytes beyond their ends."""
    while length >= 8:
        if load(a, i) != load(b, j):
            return False
        i += 8
        j += 8
        length -= 8
    rest = (np.uint64(1) << np.uint64(8 * length)) - np.uint64(1)
    equal: bool = (load(a, i) ^ load(b, j)) & rest == 0
    return equal


@compiled
def copy(a: np.ndarray, i: int, b: np.ndarray, j: int, length: int) -> None:
    """Copy a piece of a text into another; reads and writes up to 7 bytes beyond their ends."""
    for _ in range((length + 7) >> 3):
        store(b, j, load(a, i))
        i += 8
        j += 8


@compiled
def copy_wide(a: np.ndarray, i: int, b: np.ndarray, j: int, length: int) -> None:
    """The same in larger steps; reads and writes up to 32 bytes beyond their ends."""
    lay(a, i, b, j)
    while length > 32:
        i += 32
        j += 32
        length -= 32
        lay(a, i, b, j)
