"""Numbers at addresses in memory, which kernels count in bytes: one kernel then serves arrays of any layout."""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.compile import kernel


@intrinsic
def size_of(context, like):
    """Bytes of a number."""

    def generate(context, builder, signature, arguments):
        return context.get_constant(types.intp, like.bitwidth // 8)

    return types.intp(like), generate


@intrinsic
def load(context, address, like):
    """The number at an address."""

    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], context.get_value_type(like).as_pointer()))

    return like(types.intp, like), generate


@intrinsic
def store(context, address, number):
    """Write a number to an address."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], arguments[1].type.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.intp, number), generate


@kernel(inline=True)
def align(address):
    """The next address at which a cache line begins."""
    return (address + 63) // 64 * 64
