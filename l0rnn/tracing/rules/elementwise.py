"""Operations on each element by itself: both sides of a sum or a product are one unit."""

from __future__ import annotations

import torch
from torch import Tensor

from l0rnn.tracing.atoms import FREE, OUTSIDE, thin, varies
from l0rnn.tracing.run import Call, Shadow, tensors_in


def elementwise(call: Call) -> None:
    """Any number of operands, broadcast against each other."""
    operands = [
        value
        for value in (*call.args, *call.kwargs.values())
        if isinstance(value, Tensor) and (value.dim() > 0 or call.shadow(value).is_weight)
    ]
    for out in tensors_in(call.out):
        label_elementwise(call, operands, out)


def label_elementwise(call: Call, operands: list[Tensor], out: Tensor) -> None:
    """Unite the labels of operands that are broadcast against each other, and label the result."""
    weights = [call.shadow(operand) for operand in operands if _is_weight(call, operand)]
    activations = [operand for operand in operands if not _is_weight(call, operand)]
    main = torch.full((1,) * out.dim(), FREE)
    for operand in activations:
        main = call.join(main, _as_broadcast(call, operand), call.why)
    is_free = bool((main == FREE).all())
    if weights and is_free:
        _label_weights(call, weights, out, main)
        return
    for shadow in weights:
        for side in shadow.sides:
            _unite_side(call, main, side)
    call.set(out, main)


def _is_weight(call: Call, operand: Tensor) -> bool:
    return call.shadow(operand).is_weight


def _as_broadcast(call: Call, operand: Tensor) -> Tensor:
    """Labels, with size 1 along dimensions in which the tensor holds one value for all."""
    labels = call.labels(operand)
    for d, (size, stride) in enumerate(zip(operand.shape, operand.stride(), strict=True)):
        if size > 1 and stride == 0:
            labels = labels.narrow(d, 0, 1)
    return labels


def _unite_side(call: Call, main: Tensor, side: Tensor) -> None:
    """A dimension of a weight beside an activation: its indices are those of the units that vary along it."""
    roots = call.atoms.roots(main)
    along = [d for d in range(-side.dim(), 0) if varies(side, d)]
    if not along:
        return
    if all(-d <= main.dim() and main.size(d) > 1 and varies(roots, d) for d in along):
        call.atoms.unite(main, side, call.why)
    else:
        call.atoms.fix(side, f"{call.why} meets it with a size that has to stay")


def _label_weights(call: Call, weights: list[Shadow], out: Tensor, main: Tensor) -> None:
    """Weights among themselves stay weights; sides that vary along the same dimension are united."""
    sides: dict[int, Tensor] = {}
    for shadow in weights:
        for side in shadow.sides:
            along = [d for d in range(-side.dim(), 0) if varies(side, d)]
            if not along:
                continue
            place = along[-1]
            if place in sides:
                call.atoms.unite(sides[place], side, call.why)
            else:
                sides[place] = side
    labels = tuple(thin(side.expand(out.shape)) for _, side in sorted(sides.items()))
    call.tracer.set_shadow(out, Shadow(labels or (main.expand(out.shape),), is_weight=True))


def halves(call: Call) -> None:
    """``glu``: one half of the units times a function of the other."""
    left, right = call.labels(call.args[0]).chunk(2, call.argument(1, "dim", -1))
    call.set(call.out, call.join(left, right, call.why))


def chosen(call: Call) -> None:
    """``where``: the condition may be one value for many units."""
    elementwise(call)


def slopes(call: Call) -> None:
    """``prelu``: one slope for all, or one for each channel in dimension 1."""
    data, weight = call.args[0], call.argument(1, "weight")
    labels = call.labels(data)
    if weight.numel() > 1:
        (side,) = call.shadow(weight).sides
        call.atoms.unite(labels.movedim(1, -1) if labels.dim() > 1 else labels, side, call.why)
    call.set(call.out, labels)


def random_like(call: Call) -> None:
    """Random numbers in the shape of units: a smaller network would draw others."""
    call.fix(call.args, f"{call.why} draws random numbers in its shape")
    call.set(call.out, torch.full((), OUTSIDE))


def normed_weight(call: Call) -> None:
    """Weight normalisation: rows are scaled each by itself, so the columns have to stay."""
    direction, scale, dim = call.args[0], call.args[1], call.argument(2, "dim", 0)
    sides = list(call.shadow(direction).sides)
    for d, side in enumerate(sides):
        if d != dim:
            call.atoms.fix(side, f"{call.why} takes a norm over it")
    for side in call.shadow(scale).sides:
        if dim >= 0 and any(varies(side, d) for d in range(side.dim())):
            call.atoms.unite(sides[dim], side, call.why)
    call.tracer.set_shadow(call.out, Shadow(tuple(sides), is_weight=True))


UNARY = (
    "relu relu6 tanh sigmoid hardsigmoid hardswish hardtanh gelu silu mish elu selu celu leaky_relu rrelu softplus softsign "
    "logsigmoid log_sigmoid tanhshrink softshrink hardshrink threshold exp exp2 expm1 log log2 log10 log1p sqrt rsqrt "
    "square abs absolute neg negative positive sign sgn sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc "
    "floor ceil round trunc frac clamp clip clamp_min clamp_max reciprocal nan_to_num isnan isinf isfinite logical_not "
    "bitwise_not invert dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout "
    "pow float_power rpow logit sinc digamma lgamma i0 deg2rad hypot"
)
BINARY = (
    "add radd iadd sub rsub isub subtract mul rmul imul multiply div rdiv idiv divide truediv rtruediv itruediv "
    "true_divide floordiv floor_divide mod rmod remainder fmod maximum minimum fmax fmin lerp addcmul addcdiv "
    "masked_fill where atan2 logaddexp logaddexp2 copysign eq ne lt le gt ge less less_equal greater greater_equal "
    "not_equal logical_and logical_or logical_xor and or xor rand ror iand ior bitwise_and bitwise_or xlogy heaviside "
    "isclose mul_ complex polar"
)
RULES = {
    f"{UNARY} {BINARY}": elementwise,
    "glu": halves,
    "prelu": slopes,
    "rand_like randn_like randint_like bernoulli normal uniform exponential multinomial": random_like,
    "weight_norm": normed_weight,
}
