"""Reading and writing at addresses in memory.  Kernels count in bytes, so that one serves arrays of any layout.

What is small and often called is an intrinsic: code that Numba puts in line itself takes it four times as long.

``like`` is a 0 of the dtype.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def size_of(context, like):
    """Bytes of an element."""

    def generate(context, builder, signature, arguments):
        return context.get_constant(types.intp, like.bitwidth // 8)

    return types.intp(like), generate


@intrinsic
def load(context, address, like):
    """The element at an address."""

    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], context.get_value_type(like).as_pointer()))

    return like(types.intp, like), generate


@intrinsic
def store(context, address, number):
    """Write an element to an address."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], arguments[1].type.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.intp, number), generate


@intrinsic
def quotient(context, a, b):
    """``a // b`` of words that are not negative, b > 0: code for other numbers takes ten times as long to compile."""

    def generate(context, builder, signature, arguments):
        return builder.udiv(*arguments)

    return types.intp(types.intp, types.intp), generate


def array_at(context: Any, builder: ir.IRBuilder, kind: types.Array, data: Any, shape: list) -> Any:
    """Code for a contiguous array over memory that it does not own."""
    from numba.np.arrayobj import populate_array  # here, as it is large: a process that only loads kernels needs none

    word = ir.IntType(64)
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [word(size)]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    array = context.make_array(kind)(context, builder)
    pointer = builder.bitcast(data, array.data.type)
    populate_array(array, data=pointer, shape=shape, strides=strides, itemsize=word(size), meminfo=None)
    return array._getvalue()


@intrinsic
def words(context, address, length):
    """The words at an address, as an array: a slice of one takes ten times as long to compile."""
    kind = types.Array(types.intp, 1, "C")

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return array_at(context, builder, kind, pointer, [arguments[1]])

    return kind(types.intp, types.intp), generate


@intrinsic
def word_rows(context, address, rows, columns):
    """The words at an address, as an array (rows, columns)."""
    kind = types.Array(types.intp, 2, "C")

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return array_at(context, builder, kind, pointer, arguments[1:])

    return kind(*[types.intp] * 3), generate


LINE = 64
"""Bytes of a cache line."""


@intrinsic
def align(context, address):
    """The next address at which a cache line begins: ``address`` itself if one begins there."""

    def generate(context, builder, signature, arguments):
        word = arguments[0].type
        return builder.and_(builder.add(arguments[0], word(LINE - 1)), word(-LINE))

    return types.intp(types.intp), generate


@intrinsic
def word(context, address):
    """The word at an address: an element of an array takes twice as long to compile."""

    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], arguments[0].type.as_pointer()))

    return types.intp(types.intp), generate
