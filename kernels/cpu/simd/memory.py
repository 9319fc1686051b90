"""SIMD where LLVM does not vectorise Numba's loops well: moving blocks whose rows are short or far apart.

Addresses and distances are in bytes, so that one kernel serves arrays of any layout.  ``like`` is a 0 of the dtype.  A
*register* has ``WIDTH`` bytes, a *chunk* at most 32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils, codegen
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.address import load, size_of, store
from minicaffe.kernels.cpu.runtime.compile import called, kernel

_SUM = """
define <16 x float> @sum(<16 x float> %a, <16 x float> %b) {
    %c = fadd <16 x float> %a, %b
    ret <16 x float> %c
}
"""


def _register_bytes() -> int:
    """Of a SIMD register of the processor that Numba compiles for: this one, or the one that it was told of."""
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        features = codegen.get_host_cpu_features().split(",")
        return 64 if "+avx512f" in features else 32 if "+avx" in features else 16
    # a name implies features, too: which, tells what LLVM makes of a sum, for which it reads in 14 MB of its own code
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name = llvm.get_host_cpu_name() if config.CPU_NAME is None else config.CPU_NAME
    features = codegen.get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=name, features=features)
    assembly = machine.emit_assembly(llvm.parse_assembly(_SUM))
    return 64 if "%zmm" in assembly else 32 if "%ymm" in assembly else 16


WIDTH = _register_bytes()
"""Bytes of a SIMD register."""
REGISTERS = 32 if WIDTH == 64 or llvm.get_default_triple().startswith(("aarch64", "arm64")) else 16
"""How many SIMD registers there are."""
CHUNK = min(WIDTH, 32)
"""Bytes of the pieces in which short rows are copied, filled, added and transposed."""


def get_vector(builder: ir.IRBuilder, address: Any, kind: ir.Type, align: int) -> Any:
    """Code that reads a vector."""
    vector = builder.load(builder.inttoptr(address, kind.as_pointer()))
    vector.align = align
    return vector


def put_vector(builder: ir.IRBuilder, vector: Any, address: Any, align: int) -> None:
    """Code that writes a vector."""
    builder.store(vector, builder.inttoptr(address, vector.type.as_pointer())).align = align


def splat(builder: ir.IRBuilder, number: Any, lanes: int) -> Any:
    """Code for a vector of equal elements."""
    kind = ir.VectorType(number.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(
        first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    )


def fma(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """Code for ``a b + c`` of numbers or vectors, rounded once where the processor can.

    Elsewhere it is a multiplication and an addition, each rounded, so that results differ between processors in the
    last bits: nothing may rely on the product's being exact.
    """
    kind, vector = a.type, isinstance(a.type, ir.VectorType)
    bits = 64 if isinstance(kind.element if vector else kind, ir.DoubleType) else 32
    name = f"llvm.fmuladd.{f'v{kind.count}' if vector else ''}f{bits}"
    return builder.call(
        cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name), [a, b, c]
    )


def _copy(count: int) -> Any:
    """An intrinsic ``(target, source, like)`` that copies ``count`` bytes at once."""

    @intrinsic
    def copy(context, target, source, like):
        def generate(context, builder, signature, arguments):
            size = like.bitwidth // 8
            kind = ir.VectorType(context.get_value_type(like), count // size)
            put_vector(builder, get_vector(builder, arguments[1], kind, size), arguments[0], size)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, like), generate

    return copy


copy_register, copy_chunk = _copy(WIDTH), _copy(CHUNK)


@intrinsic
def _stream_register(context, target, source, like):
    """Copy a register to where one may begin, past the caches."""

    def generate(context, builder, signature, arguments):
        size = like.bitwidth // 8
        kind = ir.VectorType(context.get_value_type(like), WIDTH // size)
        vector = get_vector(builder, arguments[1], kind, size)
        stored = builder.store(vector, builder.inttoptr(arguments[0], kind.as_pointer()))
        stored.align = WIDTH
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, like), generate


@intrinsic
def end_of_stream(context):
    """Other threads see what was written past the caches before all that this one writes from here on."""

    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def fill_chunk(context, target, number):
    """Fill a chunk with a number."""

    def generate(context, builder, signature, arguments):
        size = number.bitwidth // 8
        put_vector(builder, splat(builder, arguments[1], CHUNK // size), arguments[0], size)
        return context.get_dummy_value()

    return types.void(types.intp, number), generate


def _first(builder: ir.IRBuilder, count: Any, yes: Any, no: Any) -> Any:
    """Code for a vector of the first ``count`` lanes of ``yes`` and the others of ``no``."""
    word, lanes = ir.IntType(32), yes.type.count
    lane = ir.Constant(ir.VectorType(word, lanes), list(range(lanes)))
    return builder.select(builder.icmp_signed("<", lane, splat(builder, builder.trunc(count, word), lanes)), yes, no)


@intrinsic
def copy_part(context, target, source, count, like):
    """Copy the first ``count`` elements of a chunk; the rest of the chunk at ``target`` is read and written back."""

    def generate(context, builder, signature, arguments):
        size = like.bitwidth // 8
        kind = ir.VectorType(context.get_value_type(like), CHUNK // size)
        new, old = get_vector(builder, arguments[1], kind, size), get_vector(builder, arguments[0], kind, size)
        put_vector(builder, _first(builder, arguments[2], new, old), arguments[0], size)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, like), generate


@intrinsic
def add_chunk(context, target, source, count, like):
    """Add the first ``count`` elements of a chunk at ``source`` to those at ``target``."""

    def generate(context, builder, signature, arguments):
        size = like.bitwidth // 8
        kind = ir.VectorType(context.get_value_type(like), CHUNK // size)
        zero = ir.Constant(kind, [0.0] * (CHUNK // size))
        addend = _first(builder, arguments[2], get_vector(builder, arguments[1], kind, size), zero)
        put_vector(builder, builder.fadd(get_vector(builder, arguments[0], kind, size), addend), arguments[0], size)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, like), generate


def _masked(builder: ir.IRBuilder, kind: ir.Type, count: Any) -> Any:
    """Code for the mask of the first ``count`` lanes."""
    bit = ir.IntType(1)
    yes, no = (ir.Constant(ir.VectorType(bit, kind.count), [value] * kind.count) for value in (1, 0))
    return _first(builder, count, yes, no)


def get_masked(builder: ir.IRBuilder, address: Any, kind: ir.Type, align: int, mask: Any) -> Any:
    """Code that reads the lanes of a vector that a mask tells, and no other memory; the other lanes are 0."""
    pointer, word = builder.inttoptr(address, kind.as_pointer()), ir.IntType(32)
    signature = ir.FunctionType(kind, [pointer.type, word, mask.type, kind])
    name = f"llvm.masked.load.v{kind.count}f{8 * align}.p0"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    zero = ir.Constant(kind, [0.0] * kind.count)
    return builder.call(function, [pointer, word(align), mask, zero])


def put_masked(builder: ir.IRBuilder, vector: Any, address: Any, align: int, mask: Any) -> None:
    """Code that writes the lanes of a vector that a mask tells."""
    kind, word = vector.type, ir.IntType(32)
    pointer = builder.inttoptr(address, kind.as_pointer())
    signature = ir.FunctionType(ir.VoidType(), [kind, pointer.type, word, mask.type])
    name = f"llvm.masked.store.v{kind.count}f{8 * align}.p0"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    builder.call(function, [vector, pointer, word(align), mask])


def get_first(builder: ir.IRBuilder, address: Any, kind: ir.Type, align: int, count: Any) -> Any:
    """Code that reads the first ``count`` lanes of a vector, and no memory beyond them; the other lanes are 0."""
    return get_masked(builder, address, kind, align, _masked(builder, kind, count))


def put_first(builder: ir.IRBuilder, vector: Any, address: Any, align: int, count: Any) -> None:
    """Code that writes the first ``count`` lanes of a vector."""
    put_masked(builder, vector, address, align, _masked(builder, vector.type, count))


def access(some: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What reads and writes the first lanes of a vector: ``get_first`` and ``put_first``; or, given the same, all of
    them.
    """
    if some:
        return get_first, put_first
    return (lambda *place_and_count: get_vector(*place_and_count[:-1])), (lambda *p: put_vector(*p[:-1]))


@intrinsic
def copy_first(context, target, source, count, like):
    """Copy the first ``count`` elements of a register."""

    def generate(context, builder, signature, arguments):
        target, source, count, _ = arguments
        size = like.bitwidth // 8
        kind = ir.VectorType(context.get_value_type(like), WIDTH // size)
        put_first(builder, get_first(builder, source, kind, size, count), target, size, count)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, like), generate


def word_at(builder: ir.IRBuilder, table: Any, index: Any) -> Any:
    word = ir.IntType(64)
    return builder.load(builder.inttoptr(builder.add(table, builder.mul(index, word(8))), word.as_pointer()))


def prefetch_line(builder: ir.IRBuilder, address: Any, writes: bool = False) -> None:
    """Code that prefetches the cache line at an address: into the L2 cache or, in order to be written, into the L1
    cache.
    """
    pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    level = word(3 if writes else 2)
    builder.call(function, [builder.inttoptr(address, pointer), word(int(writes)), level, word(1)])


def _prefetch(writes: bool) -> Any:
    """An intrinsic that prefetches the cache line at an address; see ``prefetch_line``."""

    @intrinsic
    def prefetch(context, address):
        def generate(context, builder, signature, arguments):
            prefetch_line(builder, arguments[0], writes)
            return context.get_dummy_value()

        return types.void(types.intp), generate

    return prefetch


prefetch, prefetch_to_write = _prefetch(writes=False), _prefetch(writes=True)


@kernel(internal=True)
def prefetch_rows(first, stride, rows, count):
    """Prefetch ``count`` bytes of each of some rows, which are ``stride`` bytes apart."""
    for row in range(rows):
        for line in range(0, count, 64):
            prefetch(first + row * stride + line)


@kernel(internal=True)
def prefetch_rows_to_write(first, stride, rows, count):
    """Prefetch ``count`` bytes of each of some rows that are about to be written."""
    for row in range(rows):
        for line in range(0, count, 64):
            prefetch_to_write(first + row * stride + line)


@kernel(internal=True)
def copy_row(target, source, count, like):
    """Copy ``count`` elements."""
    size = size_of(like)
    j = 0
    while j + WIDTH // size <= count:
        copy_register(target + j * size, source + j * size, like)
        j += WIDTH // size
    if j < count:
        copy_first(target + j * size, source + j * size, count - j, like)


@called
def copy_rows(target, target_row, source, source_row, rows, count, like):
    """Copy ``count`` elements of each of some rows, which are ``source_row`` and will be ``target_row`` bytes apart."""
    size = size_of(like)
    lanes = WIDTH // size
    whole = count // lanes * lanes
    for r in range(rows):
        to, at = target + r * target_row, source + r * source_row
        for j in range(0, whole, lanes):
            copy_register(to + j * size, at + j * size, like)
        if whole < count:
            copy_first(to + whole * size, at + whole * size, count - whole, like)


@called
def stream_row(target, source, count, like):
    """Copy ``count`` elements past the caches: what is too much for them is then written without being read before, and
    what they hold stays there.  ``end_of_stream`` must follow."""
    size = size_of(like)
    lanes = WIDTH // size
    j = min(count, -target % WIDTH // size)
    for i in range(j):
        store(target + i * size, load(source + i * size, like))
    while j + lanes <= count:
        _stream_register(target + j * size, source + j * size, like)
        j += lanes
    for i in range(j, count):
        store(target + i * size, load(source + i * size, like))


@called
def fill_row(target, number, count):
    """Fill ``count`` elements with a number."""
    size = size_of(number)
    lanes = CHUNK // size
    whole = count // lanes * lanes
    for j in range(0, whole, lanes):
        fill_chunk(target + j * size, number)
    for j in range(whole, count):
        store(target + j * size, number)


@intrinsic
def _transpose_chunk(context, target, target_row, source, source_row, like):
    """Transpose a square block whose rows are chunks.

    Elements cross between pieces of 16 bytes as they are loaded; what is left to do stays within these, where most
    processors can make two shuffles at a time.
    """

    def generate(context, builder, signature, arguments):
        target, target_row, source, source_row, _ = arguments
        size, scalar, word = like.bitwidth // 8, context.get_value_type(like), ir.IntType(32)
        lanes, piece = CHUNK // size, 16 // size
        starts = range(0, lanes, piece)
        addresses = [source]
        for _ in range(1, lanes):
            addresses.append(builder.add(addresses[-1], source_row))

        def joined(vectors: list[Any]) -> Any:
            while len(vectors) > 1:
                both = ir.Constant(
                    ir.VectorType(word, 2 * vectors[0].type.count), list(range(2 * vectors[0].type.count))
                )
                vectors = [builder.shuffle_vector(a, b, both) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
            return vectors[0]

        # each stage interleaves row i with row i + piece / 2, piece by piece; log2(piece) stages make the transpose
        halves = [
            ir.Constant(
                ir.VectorType(word, lanes),
                [start + half + i // 2 + i % 2 * lanes for start in starts for i in range(piece)],
            )
            for half in (0, piece // 2)
        ]
        kind = ir.VectorType(scalar, piece)
        for column in starts:
            place = ir.IntType(64)(column * size)
            rows = [
                joined([get_vector(builder, builder.add(addresses[start + i], place), kind, size) for start in starts])
                for i in range(piece)
            ]
            for _ in range(piece.bit_length() - 1):
                pairs = zip(rows[: piece // 2], rows[piece // 2 :], strict=True)
                rows = [builder.shuffle_vector(a, b, half) for a, b in pairs for half in halves]
            for row in rows:
                put_vector(builder, row, target, size)
                target = builder.add(target, target_row)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4, like), generate


@called
def transpose(target, target_row, source, source_row, rows, columns, like):
    """Write the transpose of a block (rows, columns)."""
    size = size_of(like)
    lanes = CHUNK // size
    if rows < lanes or columns < lanes:
        for i in range(rows):
            for j in range(columns):
                store(target + j * target_row + i * size, load(source + i * source_row + j * size, like))
        return
    for row in range(0, rows, lanes):
        i = min(row, rows - lanes)  # what is left over is transposed with some of what has been
        for column in range(0, columns, lanes):
            j = min(column, columns - lanes)
            _transpose_chunk(
                target + j * target_row + i * size, target_row, source + i * source_row + j * size, source_row, like
            )
