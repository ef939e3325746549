"""Sums of products: matrix products of any form. Here units are read.

A weight reads what it is multiplied with where both have the dimension that is summed over: its column is the unit's.
Its other dimension makes the units of the result. Two activations that are multiplied and summed, such as queries and
keys, have no weight that a gate could be folded into, so the units they sum over have to stay.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from l0rnn.tracing.rules.atoms import FREE, OUTSIDE, differs, line, varies
from l0rnn.tracing.rules.elementwise import label_elementwise, mixed
from l0rnn.tracing.rules.run import Call, Reading, Shadow

FROM_OUTSIDE = "what it reads comes from outside the network"


def linear(call: Call) -> None:
    """``linear(input, weight, bias)``."""
    data, weight = call.argument(0, "input"), call.argument(1, "weight")
    batch = [f"b{d}" for d in range(data.dim() - 1)]
    if weight.dim() == 1:
        contract(call, data, weight, [*batch, "i"], ["i"], batch, call.out)
    else:
        contract(call, data, weight, [*batch, "i"], ["o", "i"], [*batch, "o"], call.out)
    _add(call, call.argument(2, "bias"))


def matmul(call: Call) -> None:
    """``matmul``, ``mm``, ``bmm``, ``mv``, ``dot``, ``@``."""
    others = [value for name, value in call.kwargs.items() if isinstance(value, Tensor) and name != "out"]
    left, right = [value for value in call.args if isinstance(value, Tensor)] + others
    if call.name == "rmatmul":
        left, right = right, left
    _matmul(call, left, right)


def _matmul(call: Call, left: Tensor, right: Tensor) -> None:
    batch = max(left.dim(), right.dim()) - 2
    names = [f"b{d}" for d in range(max(batch, 0))]
    a = [*names[len(names) - max(0, left.dim() - 2) :], "i", "k"] if left.dim() > 1 else ["k"]
    b = [*names[len(names) - max(0, right.dim() - 2) :], "k", "j"] if right.dim() > 1 else ["k"]
    out = [*names, *(["i"] if left.dim() > 1 else []), *(["j"] if right.dim() > 1 else [])]
    contract(call, left, right, a, b, out, call.out)


def inner(call: Call) -> None:
    """``inner``: over the last dimension of both."""
    left, right = call.args[0], call.argument(1, "other")
    a, b = [f"a{d}" for d in range(left.dim() - 1)], [f"b{d}" for d in range(right.dim() - 1)]
    contract(call, left, right, [*a, "k"], [*b, "k"], [*a, *b], call.out)


def outer(call: Call) -> None:
    """``outer`` of two vectors."""
    contract(call, call.args[0], call.argument(1, "vec2"), ["i"], ["j"], ["i", "j"], call.out)


def tensordot(call: Call) -> None:
    """``tensordot(a, b, dims)``."""
    left, right, dims = call.args[0], call.args[1], call.argument(2, "dims", 2)
    if isinstance(dims, int):
        dims = (list(range(left.dim() - dims, left.dim())), list(range(dims)))
    own, other = ([d % tensor.dim() for d in part] for part, tensor in zip(dims, (left, right), strict=True))
    a, b = [f"a{d}" for d in range(left.dim())], [f"b{d}" for d in range(right.dim())]
    for d, e in zip(own, other, strict=True):
        b[e] = a[d]
    result = [name for name in a if name not in b] + [name for name in b if name not in a]
    contract(call, left, right, a, b, result, call.out)


def added_product(call: Call) -> None:
    """``addmm``, ``baddbmm``, ``addmv``: ``beta · input + alpha · left @ right``."""
    _matmul(call, call.args[1], call.args[2])
    _add(call, call.args[0])


def einsum(call: Call) -> None:
    """``einsum`` with each letter once in each operand; of several operands the first two are multiplied first."""
    equation, *operands = call.args
    operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    parsed = _parse(equation, operands) if isinstance(equation, str) else None
    if parsed is None:
        mixed(call)
        return
    terms, result = parsed
    if len(operands) == 1:
        _sum_one(call, operands[0], terms[0], result)
        return
    left, own = operands[0], terms[0]
    for number in range(1, len(operands)):
        right, other = operands[number], terms[number]
        if number == len(operands) - 1:
            contract(call, left, right, own, other, result, call.out)
            return
        later = set(result).union(*terms[number + 1 :])
        names = [name for name in dict.fromkeys([*own, *other]) if name in later]
        sizes = dict(zip([*own, *other], [*left.shape, *right.shape], strict=True))
        between = torch.empty([sizes[name] for name in names], device="meta")
        contract(call, left, right, own, other, names, between)
        left, own = between, names


def _parse(equation: str, operands: list[Tensor]) -> tuple[list[list[str]], list[str]] | None:
    """Names of the dimensions of each operand and of the result, or None where one is named twice in an operand."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    dots = [operand.dim() - len(term.replace("...", "")) for term, operand in zip(terms, operands, strict=True)]
    most = max([count for term, count in zip(terms, dots, strict=True) if "..." in term], default=0)
    names = [chr(0x391 + d) for d in range(most)]
    terms = [term.replace("...", "".join(names[most - n :])) for term, n in zip(terms, dots, strict=True)]
    if not arrow:
        letters = "".join(term for term in inputs.replace("...", "").split(","))
        result = "..." * ("..." in inputs) + "".join(
            sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        )
    result = result.replace("...", "".join(names))
    if any(len(set(term)) != len(term) for term in (*terms, result)):
        return None
    return [list(term) for term in terms], list(result)


def _sum_one(call: Call, tensor: Tensor, own: list[str], result: list[str]) -> None:
    labels = call.labels(tensor)
    gone = [d for d, name in enumerate(own) if name not in result]
    kept = call.tie_or_fix(labels, gone, f"{call.why} runs over it")
    call.set(call.out, _without(kept, own, [own[d] for d in gone], result))


@dataclass
class Product:
    """Two tensors that are multiplied, and summed over the dimensions that the result has not.

    Attributes:
        call: the operation.
        names: names of all dimensions.
        summed: those that are summed over.
        result: those of the result, in its order.
        sizes: size of each dimension.
        out: the result, or any tensor of its shape.
    """

    call: Call
    names: list[str]
    summed: list[str]
    result: list[str]
    sizes: dict[str, int]
    out: Tensor

    @property
    def kept(self) -> list[str]:
        """Dimensions of the result, in the order of all."""
        return [name for name in self.names if name not in self.summed]

    def along(self, labels: Tensor, names: list[str]) -> list[str]:
        """Which of these dimensions units differ along."""
        classes = self.call.atoms.roots(labels)
        return [name for name in names if differs(classes, self.names.index(name))]

    def aligned(self, labels: Tensor, own: list[str]) -> Tensor:
        """Labels with one dimension for each name, of size 1 for those that the tensor has not."""
        order = sorted(range(len(own)), key=lambda d: self.names.index(own[d]))
        labels = labels.permute(order)
        for d, name in enumerate(self.names):
            if name not in own:
                labels = labels.unsqueeze(d)
        return labels

    def flat(self, labels: Tensor, names: list[str]) -> Tensor:
        """The labels along some dimensions, one for each place: `(place,)`."""
        labels = line(labels, *(d for d, name in enumerate(self.names) if name not in names))
        shape = [self.sizes[name] if name in names else 1 for name in self.names]
        return labels.expand(shape).reshape(-1).clone()

    def label(self, labels: Tensor) -> None:
        """Label the result."""
        self.call.set(self.out, _without(labels, self.names, self.summed, self.result))

    def note(self, rows: Tensor | None, columns: Tensor | None, read: Tensor | None) -> None:
        """Note the multiply-adds, ``positions · rows · columns``, and what the columns read."""
        width = 1
        for name in self.summed:
            width *= self.sizes[name]
        column = torch.full((width,), OUTSIDE) if columns is None else self.flat(columns, self.summed)
        source = None if columns is None or read is None else self.flat(read, self.summed)
        row = torch.full((1,), OUTSIDE)
        if rows is not None:
            own = [name for name in self.kept if varies(rows, self.names.index(name))]
            row = self.flat(rows, own)
        positions = max(1, self.out.numel() // max(1, len(row)))
        tracer = self.call.tracer
        tracer.run.readings.append(Reading(tracer.module, self.call.name, row, column, positions, source=source))


def contract(
    call: Call, left: Tensor, right: Tensor, a: list[str], b: list[str], result: list[str], out: Tensor
) -> None:
    """Multiply two tensors and sum over the dimensions that the result has not.

    Args:
        call: the operation.
        left: the first tensor.
        right: the second.
        a: names of the first's dimensions; size 1 is broadcast.
        b: names of the second's dimensions.
        result: names of the result's dimensions.
        out: the result, or any tensor of its shape.
    """
    names = list(dict.fromkeys([*a, *b]))
    sizes: dict[str, int] = {}
    for name, size in itertools.chain(zip(a, left.shape, strict=True), zip(b, right.shape, strict=True)):
        sizes[name] = max(sizes.get(name, 1), size)
    product = Product(call, names, [name for name in names if name not in result], result, sizes, out)
    left_is_weight, right_is_weight = call.shadow(left).is_weight, call.shadow(right).is_weight
    if left_is_weight and right_is_weight:
        _weights_by_weights(product, left, right, a, b)
    elif left_is_weight:
        _read(product, right, left, b, a)
    elif right_is_weight:
        _read(product, left, right, a, b)
    else:
        _activations(product, left, right, a, b)


def _read(product: Product, data: Tensor, weight: Tensor, of_data: list[str], of_weight: list[str]) -> None:
    """An activation times a weight."""
    call, atoms, summed = product.call, product.call.atoms, product.summed
    read = product.aligned(call.labels(data), of_data)
    wide = {name for name, size in zip(of_data, data.shape, strict=True) if size > 1}
    columns, shared, rows = [], [], []
    for number, own in enumerate(call.shadow(weight).sides):
        side = product.aligned(own, of_weight)
        along = [name for name in product.names if varies(side, product.names.index(name))]
        if any(name in summed for name in along):
            columns.append(side)
        elif any(name in wide for name in along):
            shared.append(side)
        elif along:
            rows.append(side)
        elif len(call.shadow(weight).sides) == weight.dim() and of_weight[number] not in of_data:
            atoms.write(own)
            atoms.fix(own, "it is a single unit")
    if call.shadow(data).counted and of_data[-1] in summed:
        for side in columns:
            call.meet(data, product.flat(side, of_data[-1:]))
    over = product.along(read, summed)
    reader = _unite_columns(product, columns, read, over)
    passed = [] if over else product.along(read, product.kept)
    for side in shared:
        along = [name for name in product.names if varies(side, product.names.index(name))]
        if passed and set(along) <= set(passed):
            atoms.unite(side, read, call.why)
        else:
            atoms.fix(side, f"{call.why} runs over it one by one")
    if passed:
        for side in rows:
            atoms.fix(side, f"{call.why} spreads other units over it")
        product.label(read)
        product.note(read, None, None)
        return
    if rows:
        for side in rows[:-1]:
            atoms.fix(side, f"{call.why} makes several kinds of units at once")
        atoms.write(rows[-1])
        product.label(rows[-1])
    else:
        call.set(product.out, torch.full((), OUTSIDE))
    product.note(rows[-1] if rows else None, reader, read)


def _unite_columns(product: Product, columns: list[Tensor], read: Tensor, over: list[str]) -> Tensor | None:
    """Unite columns of a weight with what they read; the column labels that do read, if any.

    Args:
        product: the product.
        columns: labels of the weight that vary along a dimension that is summed over.
        read: labels of the activation.
        over: the dimensions that are summed over along which its units differ.
    """
    call, atoms = product.call, product.call.atoms
    if over:
        covering = [side for side in columns if all(varies(side, product.names.index(name)) for name in over)]
        for side in columns:
            if side is not (covering[0] if covering else None):
                atoms.fix(side, f"{call.why} sums over positions by it, not over units")
        if not covering:
            atoms.fix(read, f"{call.why} sums over it without a weight of its own")
            return None
        atoms.unite(covering[0], read, FROM_OUTSIDE)
        atoms.read(covering[0])
        return covering[0]
    roots = atoms.roots(read)
    if bool((roots > OUTSIDE).any()):
        if not product.along(read, product.kept):
            atoms.fix(read, f"{call.why} reads one unit by itself")
        for side in columns:
            atoms.fix(side, f"{call.why} sums over positions by it, not over units")
        return None
    for side in columns:
        atoms.unite(side, read, FROM_OUTSIDE)
        atoms.read(side)
    return columns[0] if columns else None


def _weights_by_weights(product: Product, left: Tensor, right: Tensor, a: list[str], b: list[str]) -> None:
    """A weight made of two: the units between them are written by one and read by the other."""
    call, atoms = product.call, product.call.atoms
    inner_sides, outer_sides = [], []
    for tensor, own in ((left, a), (right, b)):
        for side in call.shadow(tensor).sides:
            aligned = product.aligned(side, own)
            is_inner = any(varies(aligned, product.names.index(name)) for name in product.summed)
            (inner_sides if is_inner else outer_sides).append(aligned)
    outer_of = [[name for name in own if name in product.result] for own in (a, b)]
    if len(inner_sides) == 2 and all(outer_of):
        atoms.unite(inner_sides[0], inner_sides[1], call.why)
        atoms.read(inner_sides[0])
        atoms.write(inner_sides[1])
        product.note(None, inner_sides[0], None)
    else:
        for side in inner_sides:
            atoms.fix(side, f"{call.why} sums over it")
    sides: dict[str, Tensor] = {}
    for side in outer_sides:
        along = [name for name in product.kept if varies(side, product.names.index(name))]
        if along and along[-1] in sides:
            atoms.unite(sides[along[-1]], side, call.why)
        elif along:
            sides[along[-1]] = side
    found = [
        _without(sides[name], product.names, product.summed, product.result).expand(product.out.shape)
        for name in product.result
        if name in sides
    ]
    shadow = Shadow(tuple(found) or (torch.full((), OUTSIDE).expand(product.out.shape),), is_weight=bool(found))
    call.tracer.set_shadow(product.out, shadow)


def _activations(product: Product, left: Tensor, right: Tensor, a: list[str], b: list[str]) -> None:
    """Two activations, such as queries and keys, or weights of attention and values."""
    call, atoms = product.call, product.call.atoms
    found = [product.aligned(call.labels(tensor), own) for tensor, own in ((left, a), (right, b))]
    if all(bool((labels == FREE).all()) for labels in found):
        call.set(product.out, torch.full((), FREE))
        return
    if _read_by_rows(product, found):
        return
    for labels in found:
        if product.along(labels, product.summed):
            atoms.fix(labels, f"{call.why} sums products of two activations over it")
    passed = []
    for labels in found:
        along = product.along(labels, product.kept)
        if along:
            passed.append((len(atoms.roots(labels).unique()), along, labels))
        elif bool((atoms.roots(labels) > OUTSIDE).any()):
            atoms.fix(labels, f"{call.why} multiplies it with what may be other units")
    if len(passed) == 2 and passed[0][1] == passed[1][1]:
        atoms.unite(passed[0][2], passed[1][2], call.why)
        passed.pop()
    passed.sort(key=lambda one: -one[0])
    for _, _, labels in passed[1:]:
        atoms.fix(labels, f"{call.why} multiplies it with other units")
    if passed:
        product.label(passed[0][2])
    else:
        call.set(product.out, torch.full((), OUTSIDE))
    product.note(passed[0][2] if passed else None, None, None)


def _read_by_rows(product: Product, found: list[Tensor]) -> bool:
    """Rows of an embedding as a weight, such as the items that a recommender scores; whether that is what this is."""
    call, atoms = product.call, product.call.atoms
    over = [product.along(labels, product.summed) for labels in found]
    rows = [bool(atoms.is_lookup(labels).all()) for labels in found]
    if not (over[0] and over[0] == over[1] and any(rows)) or any(product.along(one, product.kept) for one in found):
        return False
    columns, read = found if rows[0] else found[::-1]
    atoms.unite(columns, read, FROM_OUTSIDE)
    atoms.read(columns)
    call.set(product.out, torch.full((), OUTSIDE))
    product.note(None, columns, read)
    return True


def _without(labels: Tensor, names: list[str], gone: list[str], result: list[str]) -> Tensor:
    """Labels without the dimensions that were summed, in the order of the result."""
    left = [name for name in names if name not in gone]
    labels = line(labels, *(names.index(name) for name in gone))
    for d in sorted((names.index(name) for name in gone), reverse=True):
        labels = labels.squeeze(d)
    return labels.permute([left.index(name) for name in result])


def _add(call: Call, bias: Tensor | None) -> None:
    if isinstance(bias, Tensor):
        label_elementwise(call, [call.out, bias], call.out)


def bilinear(call: Call) -> None:
    """``bilinear(left, right, weight, bias)``: each side is read by a dimension of its own."""
    left, right, weight = call.args[:3]
    sides = call.shadow(weight).sides
    if not call.shadow(weight).is_weight or len(sides) != 3:
        call.fix_and_end(f"{call.why} takes a weight that is not a parameter")
        return
    rows, *columns = (_line(side, d) for d, side in enumerate(sides))
    for column, data in zip(columns, (left, right), strict=True):
        call.atoms.unite(column, call.labels(data), FROM_OUTSIDE)
        call.atoms.read(column)
    call.atoms.write(rows)
    call.set(call.out, rows)
    positions = call.out.numel() // len(rows) * right.size(-1)
    call.tracer.run.readings.append(Reading(call.tracer.module, call.name, rows, columns[0], positions))
    _add(call, call.argument(3, "bias"))


def _line(side: Tensor, d: int) -> Tensor:
    """The labels along one dimension, `(index,)`."""
    return line(side, *(other for other in range(side.dim()) if other != d)).reshape(-1)


RULES = {
    "linear": linear,
    "matmul rmatmul mm bmm mv dot vdot linalg_vecdot": matmul,
    "inner": inner,
    "outer ger": outer,
    "tensordot": tensordot,
    "addmm baddbmm addmv": added_product,
    "addbmm addr chain_matmul linalg_multi_dot": mixed,
    "einsum": einsum,
    "bilinear": bilinear,
}
