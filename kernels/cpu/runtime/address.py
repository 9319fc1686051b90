"""Reading and writing at addresses in memory.  Kernels count in bytes, so that one serves arrays of any layout.

``like`` is a 0 of the dtype.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.compile import kernel


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


LINE = 64
"""Bytes of a cache line."""


@kernel(inline=True)
def align(address):
    """The next address at which a cache line begins: ``address`` itself if one begins there."""
    return quotient(address + LINE - 1, LINE) * LINE
