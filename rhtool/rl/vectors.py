"""What numba's own loops cannot be trusted to do: products that stay in registers, and arithmetic of whole vectors.

Made of LLVM's instructions, for the processor at hand. Functions here take addresses (bytes, int64) and strides (entries) of float32
arrays whose rows start at multiples of `WIDTH`; nothing checks bounds.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

FEATURES = llvmlite.binding.get_host_cpu_features()
SUPPORTED = bool(FEATURES.get("fma") or FEATURES.get("neon"))
"""whether the processor multiplies and adds in one instruction; without, a library would, a thousand times slower"""
WIDTH, ROWS = (16, 6) if FEATURES.get("avx512f") else (8, 2)
"""floats of a vector, rows of a tile: ROWS x 4 sums, 4 vectors of B and one entry of A lie in 32 (16) registers"""

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR, INTEGERS = ir.VectorType(FLOAT, WIDTH), ir.VectorType(INT32, WIDTH)


class Vector:
    """`WIDTH` floats in a register, while LLVM code is being written: + - * / with vectors and numbers, one instruction each."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value):
        self.builder, self.value = builder, value

    @classmethod
    def load(cls, builder: ir.IRBuilder, address: ir.Value, vectors: int = 0) -> Vector:
        """The `vectors`-th vector after an address."""
        return cls(builder, builder.load(_pointer(builder, address, vectors), align=4, typ=VECTOR))

    def store(self, address: ir.Value, vectors: int = 0) -> None:
        """The inverse of `load`."""
        self.builder.store(self.value, _pointer(self.builder, address, vectors), align=4)

    def _number(self, number: float) -> Vector:
        return Vector(self.builder, ir.Constant(VECTOR, [number] * WIDTH))

    def _binary(self, name: str, left: Vector | float, right: Vector | float) -> Vector:
        a, b = (x.value if isinstance(x, Vector) else self._number(x).value for x in (left, right))
        return Vector(self.builder, getattr(self.builder, name)(a, b, flags=["contract"]))

    def __add__(self, other):
        return self._binary("fadd", self, other)

    def __sub__(self, other):
        return self._binary("fsub", self, other)

    def __rsub__(self, other):
        return self._binary("fsub", other, self)

    def __mul__(self, other):
        return self._binary("fmul", self, other)

    def __truediv__(self, other):
        return self._binary("fdiv", self, other)

    def __rtruediv__(self, other):
        return self._binary("fdiv", other, self)

    __radd__, __rmul__ = __add__, __mul__

    def clamp(self, bound: float) -> Vector:
        """Into [-bound, bound]; NaN stays NaN."""
        value = self.value
        for sign, limit in ((">", bound), ("<", -bound)):
            limit = self._number(limit).value
            value = self.builder.select(self.builder.fcmp_ordered(sign, value, limit), limit, value)
        return Vector(self.builder, value)

    def expm1(self) -> Vector:
        """exp(x) - 1 for x in [-87, 87]: x = n ln 2 + r, Taylor's series of r (|r| < 0.35: remainder under 6e-9 of it)."""
        shifted = self * 1.4426950408889634 + ROUND  # 1 / ln 2
        n = shifted - ROUND
        r = self - n * LN2_HIGH - n * LN2_LOW
        series = 1 / 5040
        for k in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2):
            series = r * series + k
        b = self.builder
        exponent = b.add(b.bitcast(shifted.value, INTEGERS), ir.Constant(INTEGERS, [127] * WIDTH))
        power = Vector(b, b.bitcast(b.shl(exponent, ir.Constant(INTEGERS, [23] * WIDTH)), VECTOR))  # 2 ** n
        return power * (r + r * r * series) + (power - 1.0)

    def sigmoid(self) -> Vector:
        """1 / (1 + exp(-x))."""
        return 1.0 / (2.0 + (0.0 - self.clamp(87.0)).expm1())

    def tanh(self) -> Vector:
        """(exp(2x) - 1) / (exp(2x) + 1)."""
        e = (2.0 * self.clamp(10.0)).expm1()
        return e / (e + 2.0)


ROUND = 1.5 * 2**23
"""adding it leaves the nearest integer of a float in the float's lowest bits"""
LN2_HIGH = 0.693359375
"""ln 2 in so few bits that its product with an exponent is exact"""
LN2_LOW = 0.6931471805599453 - LN2_HIGH


def _pointer(builder: ir.IRBuilder, address: ir.Value, vectors: int = 0) -> ir.Value:
    address = builder.add(address, ir.Constant(INT64, 4 * WIDTH * vectors))
    return builder.inttoptr(address, VECTOR.as_pointer())


def product(rows: int, vectors: int) -> Callable:
    """C += A B for a tile of `rows` x (`vectors` * WIDTH) entries, which stays in registers over the whole depth (at least 1).

    The arguments of the function made: a, strides of its rows and of the depth; b, stride of the depth; the depth; c, stride of its
    rows. The columns of b and c are contiguous.
    """

    def generate(context, builder, signature, arguments):
        a, a_row, a_depth, b, b_depth, depth, c, c_row = arguments
        number = lambda value: ir.Constant(INT64, value)  # noqa: E731
        at = lambda base, entries: builder.add(base, builder.mul(entries, number(4)))  # noqa: E731
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), f"llvm.fma.v{WIDTH}f32"
        )
        tile = [(r, v) for r in range(rows) for v in range(vectors)]
        a_rows, c_rows = ([at(p, builder.mul(s, number(r))) for r in range(rows)] for p, s in ((a, a_row), (c, c_row)))
        start = {(r, v): Vector.load(builder, c_rows[r], v).value for r, v in tile}
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        k, sums = builder.phi(INT64), {place: builder.phi(VECTOR) for place in tile}
        b_k, a_k = at(b, builder.mul(k, b_depth)), builder.mul(k, a_depth)
        of_b = [Vector.load(builder, b_k, v).value for v in range(vectors)]
        of_a = []
        for row in a_rows:
            entry = builder.load(builder.inttoptr(at(row, a_k), FLOAT.as_pointer()), align=4, typ=FLOAT)
            first = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), entry, ir.Constant(INT32, 0))
            of_a.append(builder.shuffle_vector(first, first, ir.Constant(INTEGERS, [0] * WIDTH)))
        new = {(r, v): builder.call(fma, [of_a[r], of_b[v], sums[r, v]]) for r, v in tile}
        following = builder.add(k, number(1))
        k.add_incoming(number(0), before)
        k.add_incoming(following, loop)
        for place in tile:
            sums[place].add_incoming(start[place], before)
            sums[place].add_incoming(new[place], loop)
        builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
        builder.position_at_end(after)
        for r, v in tile:
            Vector(builder, new[r, v]).store(c_rows[r], v)
        return context.get_dummy_value()

    @intrinsic
    def multiply(typing, a, a_row, a_depth, b, b_depth, depth, c, c_row):
        return types.void(*[types.int64] * 8), generate

    return multiply


@intrinsic
def sigmoid(typing, x, y):
    """y = sigmoid(x), one vector each."""

    def generate(context, builder, signature, arguments):
        Vector.load(builder, arguments[0]).sigmoid().store(arguments[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def tanh(typing, x, y):
    """y = tanh(x), one vector each."""

    def generate(context, builder, signature, arguments):
        Vector.load(builder, arguments[0]).tanh().store(arguments[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def cell_forward(typing, gates, before, now, hidden):
    """A cell's update, for one row and `WIDTH` units.

    Args:
        gates: (4, WIDTH) sums a of the gates i, f, g, o; replaced by the gates.
        before, now: c_{t-1} and c_t.
        hidden: h_t.
    """

    def generate(context, builder, signature, arguments):
        gates, before, now, hidden = arguments
        sums = [Vector.load(builder, gates, n) for n in range(4)]
        i, f, g, o = (a.tanh() if n == 2 else a.sigmoid() for n, a in enumerate(sums))
        for n, gate in enumerate((i, f, g, o)):
            gate.store(gates, n)
        c = f * Vector.load(builder, before) + i * g
        c.store(now)
        (o * c.tanh()).store(hidden)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def cell_backward(typing, gates, before, now, d_hidden, d_cell, d_bias):
    """Derivatives of a cell's update, for one row and `WIDTH` units.

    Args:
        gates: (4, WIDTH) i, f, g, o; replaced by the derivatives with respect to their sums.
        before, now: c_{t-1} and c_t.
        d_hidden: with respect to h_t.
        d_cell: with respect to c_t, of what follows it other than h_t; replaced by that with respect to c_{t-1}.
        d_bias: (4, WIDTH), the derivatives of the sums are added to it.
    """

    def generate(context, builder, signature, arguments):
        gates, before, now, d_hidden, d_cell, d_bias = arguments
        i, f, g, o = (Vector.load(builder, gates, n) for n in range(4))
        dh, squashed = Vector.load(builder, d_hidden), Vector.load(builder, now).tanh()
        dc = Vector.load(builder, d_cell) + dh * o * (1.0 - squashed * squashed)
        (dc * f).store(d_cell)
        sums = (
            dc * g * (i * (1.0 - i)),
            dc * Vector.load(builder, before) * (f * (1.0 - f)),
            dc * i * (1.0 - g * g),
            dh * squashed * (o * (1.0 - o)),
        )
        for n, d in enumerate(sums):
            d.store(gates, n)
            (Vector.load(builder, d_bias, n) + d).store(d_bias, n)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate
