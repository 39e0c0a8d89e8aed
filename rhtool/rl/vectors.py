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
    """`WIDTH` floats in a register, while LLVM code is being written: + - * / with vectors and numbers, one
    instruction each, so that a result does not depend on which of them a compiler fuses."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value):
        self.builder, self.value = builder, value

    @classmethod
    def load(cls, builder: ir.IRBuilder, address: ir.Value, vectors: int = 0) -> Vector:
        """The `vectors`-th vector after an address."""
        return cls(builder, builder.load(_pointer(builder, address, vectors), align=4, typ=VECTOR))

    def store(self, address: ir.Value, vectors: int = 0) -> None:
        """The inverse of `load`."""
        self.builder.store(self.value, _pointer(self.builder, address, vectors), align=4)

    def fma(self, factor: Vector | float, summand: Vector | float) -> Vector:
        """self * factor + summand, rounded once."""
        name, function_type = f"llvm.fma.v{WIDTH}f32", ir.FunctionType(VECTOR, [VECTOR] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, function_type, name)
        return Vector(self.builder, self.builder.call(function, [self.value, self._of(factor), self._of(summand)]))

    def _of(self, x: Vector | float) -> ir.Value:
        return x.value if isinstance(x, Vector) else ir.Constant(VECTOR, [x] * WIDTH)

    def _binary(self, name: str, left: Vector | float, right: Vector | float) -> Vector:
        return Vector(self.builder, getattr(self.builder, name)(self._of(left), self._of(right)))

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
            limit = self._of(limit)
            value = self.builder.select(self.builder.fcmp_ordered(sign, value, limit), limit, value)
        return Vector(self.builder, value)

    def expm1(self) -> Vector:
        """exp(x) - 1 for x in [-87, 87]: x = n ln 2 + r, Taylor's series of r (|r| < 0.35: remainder under 6e-9 of it)."""
        shifted = self.fma(1.4426950408889634, ROUND)  # 1 / ln 2
        n = shifted - ROUND
        r = n.fma(-LN2_LOW, n.fma(-LN2_HIGH, self))
        series = r.fma(1 / 5040, 1 / 720)
        for k in (1 / 120, 1 / 24, 1 / 6, 1 / 2):
            series = r.fma(series, k)
        b = self.builder
        exponent = b.add(b.bitcast(shifted.value, INTEGERS), ir.Constant(INTEGERS, [127] * WIDTH))
        power = Vector(b, b.bitcast(b.shl(exponent, ir.Constant(INTEGERS, [23] * WIDTH)), VECTOR))  # 2 ** n
        return power.fma((r * r).fma(series, r), power - 1.0)

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


class Tile:
    """Sums of products, `rows` x (`vectors` * WIDTH) of them, that stay in registers, while LLVM code is being written."""

    def __init__(self, builder: ir.IRBuilder, rows: int, vectors: int):
        self.builder, self.rows, self.vectors = builder, rows, vectors
        self.places = [(r, v) for r in range(rows) for v in range(vectors)]
        self.sums: dict[tuple[int, int], Vector] = {}

    def load(self, address: ir.Value, stride: ir.Value) -> None:
        """Start from what is there, rows `stride` entries apart."""
        addresses = self._rows(address, stride)
        self.sums = {(r, v): Vector.load(self.builder, addresses[r], v) for r, v in self.places}

    def store(self, address: ir.Value, stride: ir.Value) -> None:
        """The inverse of `load`."""
        addresses = self._rows(address, stride)
        for r, v in self.places:
            self.sums[r, v].store(addresses[r], v)

    def add_product(self, a, a_row, a_depth, b, b_depth, depth: ir.Value) -> None:
        """Add A B: strides of a's rows and depth, of b's depth (its columns are contiguous), and the depth, which may be 0."""
        builder = self.builder
        a_rows = self._rows(a, a_row)
        before, head, loop, after = builder.block, *(builder.append_basic_block() for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        k, sums = builder.phi(INT64), {place: Vector(builder, builder.phi(VECTOR)) for place in self.places}
        builder.cbranch(builder.icmp_signed("<", k, depth), loop, after)
        builder.position_at_end(loop)
        b_k, a_k = _at(builder, b, builder.mul(k, b_depth)), builder.mul(k, a_depth)
        of_b = [Vector.load(builder, b_k, v) for v in range(self.vectors)]
        of_a = []
        for row in a_rows:
            entry = builder.load(builder.inttoptr(_at(builder, row, a_k), FLOAT.as_pointer()), align=4, typ=FLOAT)
            first = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), entry, ir.Constant(INT32, 0))
            of_a.append(Vector(builder, builder.shuffle_vector(first, first, ir.Constant(INTEGERS, [0] * WIDTH))))
        for r, v in self.places:
            sums[r, v].value.add_incoming(self.sums[r, v].value, before)
            sums[r, v].value.add_incoming(of_a[r].fma(of_b[v], sums[r, v]).value, loop)
        k.add_incoming(ir.Constant(INT64, 0), before)
        k.add_incoming(builder.add(k, ir.Constant(INT64, 1)), loop)
        builder.branch(head)
        builder.position_at_end(after)
        self.sums = sums

    def _rows(self, address: ir.Value, stride: ir.Value) -> list[ir.Value]:
        return [_at(self.builder, address, self.builder.mul(stride, ir.Constant(INT64, r))) for r in range(self.rows)]


def _at(builder: ir.IRBuilder, address: ir.Value, entries: ir.Value) -> ir.Value:
    return builder.add(address, builder.mul(entries, ir.Constant(INT64, 4)))


def product(rows: int, vectors: int) -> Callable:
    """C += A B for a tile of `rows` x (`vectors` * WIDTH) entries.

    The arguments of the function made: a, strides of its rows and of the depth; b, stride of the depth; the depth; c, stride of its
    rows. The columns of b and c are contiguous.
    """

    def generate(context, builder, signature, arguments):
        *factors, c, c_row = arguments
        tile = Tile(builder, rows, vectors)
        tile.load(c, c_row)
        tile.add_product(*factors)
        tile.store(c, c_row)
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


def cells_forward(keep: bool) -> Callable:
    """An update of `ROWS` x WIDTH cells, whose gates' sums never leave the registers.

    The arguments of the function made:
        bias: (4, WIDTH), of the gates i, f, g, o.
        weights: (inputs + units, 4, WIDTH).
        x, inputs: the layer's input at t, rows of so many entries.
        hidden_before, units: h_{t-1}, and the depth of its product, or 0 if it is zero.
        cell_before, cell: (ROWS, WIDTH), c_{t-1} and c_t.
        hidden, row: h_t, and the stride of its rows and of h_{t-1}'s.
        gates: (ROWS, 4, WIDTH), where the gates are written, if they are wanted (`keep`).
    """

    def generate(context, builder, signature, arguments):
        bias, weights, x, inputs, hidden_before, units, cell_before, cell, hidden, row, gates = arguments
        one, block = ir.Constant(INT64, 1), ir.Constant(INT64, 4 * WIDTH)
        tile = Tile(builder, ROWS, 4)
        tile.load(bias, ir.Constant(INT64, 0))
        tile.add_product(x, inputs, one, weights, block, inputs)
        recurrent = _at(builder, weights, builder.mul(inputs, block))
        tile.add_product(hidden_before, row, one, recurrent, block, units)
        for r in range(ROWS):
            values = [tile.sums[r, n].tanh() if n == 2 else tile.sums[r, n].sigmoid() for n in range(4)]
            i, f, g, o = values
            c = f.fma(Vector.load(builder, cell_before, r), i * g)
            c.store(cell, r)
            (o * c.tanh()).store(_at(builder, hidden, builder.mul(row, ir.Constant(INT64, r))))
            if keep:
                for n, gate in enumerate(values):
                    gate.store(gates, 4 * r + n)
        return context.get_dummy_value()

    @intrinsic
    def update(typing, bias, weights, x, inputs, hidden_before, units, cell_before, cell, hidden, row, gates):
        return types.void(*[types.int64] * 11), generate

    return update


@intrinsic
def cells_backward(typing, gates, cell_before, cell, d_hidden, row, d_cell, d_sums, d_row, d_bias):
    """Derivatives of `cells_forward`'s update of `ROWS` x WIDTH cells.

    Args:
        gates: (ROWS, 4, WIDTH) i, f, g, o.
        cell_before, cell: (ROWS, WIDTH), c_{t-1} and c_t.
        d_hidden: with respect to h_t, rows `row` apart.
        d_cell: (ROWS, WIDTH), with respect to c_t, of what follows it other than h_t; replaced by that with respect to c_{t-1}.
        d_sums: (…, 4, WIDTH), rows `d_row` apart: the derivatives with respect to the gates' sums are written there.
        d_bias: (4, WIDTH), and added to it.
    """

    def generate(context, builder, signature, arguments):
        gates, cell_before, cell, d_hidden, row, d_cell, d_sums, d_row, d_bias = arguments
        totals = [Vector.load(builder, d_bias, n) for n in range(4)]
        for r in range(ROWS):
            i, f, g, o = (Vector.load(builder, gates, 4 * r + n) for n in range(4))
            before, now, dc = (Vector.load(builder, address, r) for address in (cell_before, cell, d_cell))
            dh = Vector.load(builder, _at(builder, d_hidden, builder.mul(row, ir.Constant(INT64, r))))
            squashed = now.tanh()
            dc = (dh * o).fma(1.0 - squashed * squashed, dc)
            (dc * f).store(d_cell, r)
            sums = (dc * g * (i * (1.0 - i)), dc * before * (f * (1.0 - f)), dc * i * (1.0 - g * g))
            sums = (*sums, dh * squashed * (o * (1.0 - o)))
            for n, d in enumerate(sums):
                d.store(_at(builder, d_sums, builder.mul(d_row, ir.Constant(INT64, r))), n)
                totals[n] = totals[n] + d
        for n, total in enumerate(totals):
            total.store(d_bias, n)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), generate
