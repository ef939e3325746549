"""Operations on each element by itself: both sides of a sum or a product are one unit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0rnn.tracing.rules.atoms import FREE, OUTSIDE, compact, differs, line, thin, varies
from l0rnn.tracing.rules.run import Call, Shadow, tensors_in


def elementwise(call: Call) -> None:
    """Any number of operands, broadcast against each other."""
    operands = [
        value
        for name, value in (*((None, value) for value in call.args), *call.kwargs.items())
        if isinstance(value, Tensor) and name != "out"
    ]
    for operand in operands:
        if call.shadow(operand).is_state:
            call.tracer.keep_grid(call.labels(operand), f"{call.why} takes the states of all layers as one tensor")
    for out in tensors_in(call.out):
        label_elementwise(call, operands, out)


def label_elementwise(call: Call, operands: list[Tensor], out: Tensor) -> None:
    """Unite the labels of operands that are broadcast against each other, and label the result."""
    weights = [call.shadow(operand) for operand in operands if call.shadow(operand).is_weight]
    activations = [operand for operand in operands if not call.shadow(operand).is_weight]
    main = torch.full((1,) * out.dim(), FREE)
    for operand in activations:
        main = call.join(main, _as_broadcast(call, operand), call.why)
    for operand in activations:
        call.meet(operand, main.expand(out.shape))
    if weights and bool((main == FREE).all()):
        _label_weights(call, weights, out, main)
        return
    for shadow in weights:
        main = _beside_weight(call, main, shadow, out)
    call.set(out, main, spread=_spread(call, operands, out))


def repeated(call: Call, operand: Tensor) -> set[int]:
    """Dimensions along which a tensor repeats one value, counted from the end."""
    dims = {d - operand.dim() for d in call.shadow(operand).spread}
    strides = zip(operand.shape, operand.stride(), strict=True) if operand.layout == torch.strided else ()
    return dims | {d - operand.dim() for d, (size, stride) in enumerate(strides) if size > 1 and stride == 0}


def _spread(call: Call, operands: list[Tensor], out: Tensor) -> tuple[int, ...]:
    """Dimensions along which the result repeats one value, as all its operands do."""
    dims = []
    for d in range(-out.dim(), 0):
        own = [operand for operand in operands if -d <= operand.dim() and operand.size(d) > 1]
        if own and all(d in repeated(call, operand) for operand in own):
            dims.append(d + out.dim())
    return tuple(dims)


def _as_broadcast(call: Call, operand: Tensor) -> Tensor:
    """Labels, with size 1 along dimensions in which the tensor holds one value for all."""
    labels = call.labels(operand)
    dims = [d for d in repeated(call, operand) if not differs(call.atoms.roots(labels), d)]
    return line(labels, *dims)


def _beside_weight(call: Call, main: Tensor, shadow: Shadow, out: Tensor) -> Tensor:
    """Unite a weight's dimensions with the units of an activation beside it; labels of the result.

    A weight that spreads a number without units, such as a time, over its own dimension makes new units.
    """
    roots = call.atoms.roots(main)
    has_units = bool((roots > OUTSIDE).any())
    made = None
    for side in shadow.sides:
        along = [d for d in range(-side.dim(), 0) if varies(side, d)]
        if along and all(-d <= main.dim() and main.size(d) > 1 and differs(roots, d) for d in along):
            call.atoms.unite(main, side, call.why)
            if bool((main == FREE).any()):
                main = torch.where(main == FREE, side, main)
        elif along and not has_units and made is None and all(-d > main.dim() or main.size(d) == 1 for d in along):
            made = side
        elif along:
            call.atoms.fix(side, f"{call.why} meets it with a size that has to stay")
    if made is None:
        return main
    call.atoms.write(made)
    return made.reshape((1,) * (out.dim() - made.dim()) + tuple(made.shape))


def unite_side(call: Call, labels: Tensor, side: Tensor) -> Tensor:
    """A weight with one number for each unit beside labels of the same number of dimensions; labels of the result."""
    return _beside_weight(call, labels, Shadow((side,), is_weight=True), labels)


def _label_weights(call: Call, weights: list[Shadow], out: Tensor, main: Tensor) -> None:
    """Weights among themselves stay weights; sides that vary along the same dimension are united."""
    sides: dict[int, Tensor] = {}
    single: list[Tensor] = []
    for shadow in weights:
        for side in shadow.sides:
            along = [d for d in range(-side.dim(), 0) if varies(side, d)]
            if not along:
                single.append(side)
                continue
            place = along[-1]
            if place in sides:
                call.atoms.unite(sides[place], side, call.why)
            else:
                sides[place] = side
    labels = [thin(side.expand(out.shape)) for _, side in sorted(sides.items())]
    if not labels:
        labels = [side.expand(out.shape) for side in single[:1]]
    labels = labels or [main.expand(out.shape)]
    call.tracer.set_shadow(out, Shadow(tuple(labels), is_weight=True))


def chosen(call: Call) -> None:
    """``where(condition, left, right)``; with a condition alone it is a list of places."""
    if len(call.args) + len(call.kwargs) > 1:
        elementwise(call)
    else:
        mixed(call)


def halves(call: Call) -> None:
    """``glu``: one half of the units times a function of the other."""
    left, right = call.labels(call.data).chunk(2, call.argument(1, "dim", -1))
    call.set(call.out, call.join(left, right, call.why))


def slopes(call: Call) -> None:
    """``prelu``: one slope for all, or one for each channel in dimension 1."""
    data, weight = call.argument(0, "input"), call.argument(1, "weight")
    labels = call.labels(data)
    if weight.numel() > 1:
        dim = 1 if labels.dim() > 1 else 0
        (side,) = call.shadow(weight).sides
        side = side.reshape([-1 if d == dim else 1 for d in range(labels.dim())])
        labels = unite_side(call, labels, side)
    call.set(call.out, labels)


def random_like(call: Call) -> None:
    """Random numbers in the shape of units: a smaller network would draw others."""
    call.fix((call.args, call.kwargs), f"{call.why} draws random numbers in its shape")
    for out in tensors_in(call.out):
        call.set(out, torch.full((), OUTSIDE))


def normed_weight(call: Call) -> None:
    """Weight normalisation: rows are scaled each by itself, so the columns have to stay.

    A gate in the direction would be normalised away, so the result has the labels of the scale.
    """
    direction, scale, dim = call.args[0], call.args[1], call.argument(2, "dim", 0)
    sides = list(call.shadow(direction).sides)
    for d, side in enumerate(sides):
        if d != dim:
            call.atoms.fix(side, f"{call.why} takes a norm over it")
    for side in call.shadow(scale).sides:
        if dim >= 0 and any(varies(side, d) for d in range(side.dim())):
            call.atoms.unite(sides[dim], side, call.why)
            sides[dim] = side.expand(call.out.shape)
    call.tracer.set_shadow(call.out, Shadow(tuple(sides), is_weight=True))


def leaves_torch(call: Call) -> None:
    """A tensor becomes a number or an array of Python, where it cannot be followed."""
    if isinstance(call.out, Tensor):
        call.unknown()
        return
    call.fix((call.args, call.kwargs), f"{call.why} takes it out of torch")


def mixed(call: Call) -> None:
    """Operations that are known to mix units in ways that do not survive a removal."""
    tensors = list(tensors_in((call.args, call.kwargs)))
    if any(call.atoms.has_units(side) for tensor in tensors for side in call.shadow(tensor).sides):
        call.fix_and_end(f"{call.why} runs over it")
        return
    for out in tensors_in(call.out):
        call.set(out, torch.full((), OUTSIDE))


def as_pairs(call: Call) -> None:
    """``view_as_real``: each number becomes two."""
    labels = compact(call.labels(call.data)).unsqueeze(-1)
    call.set(call.out, labels)


def from_pairs(call: Call) -> None:
    """``view_as_complex``: two numbers become one."""
    labels = call.labels(call.data)
    call.set(call.out, call.tie_or_fix(labels, [labels.dim() - 1], f"{call.why} joins it in pairs").squeeze(-1))


def triangle(call: Call) -> None:
    """``tril``, ``triu``: zeros by position in the last two dimensions."""
    labels: Any = call.labels(call.data)
    if any(differs(call.atoms.roots(labels), d) for d in (-1, -2) if labels.dim() >= -d):
        call.fix_and_end(f"{call.why} sets it to zero by position")
    else:
        call.set(call.out, labels)


UNARY = (
    "relu relu6 tanh sigmoid hardsigmoid hardswish hardtanh gelu silu mish elu selu celu leaky_relu rrelu softplus "
    "softsign"
    "logsigmoid log_sigmoid tanhshrink softshrink hardshrink threshold exp exp2 expm1 log log2 log10 log1p sqrt rsqrt "
    "square abs absolute neg negative positive pos sign sgn signbit sin cos tan arcsin arccos arctan asin acos atan "
    "sinh cosh asinh acosh atanh erf erfc erfinv floor ceil round trunc fix frac clamp clip clamp_min clamp_max "
    "reciprocal nan_to_num isnan isinf isposinf isneginf isfinite isreal logical_not bitwise_not invert dropout "
    "dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout pow ipow float_power rpow logit "
    "sinc digamma lgamma i0 deg2rad rad2deg hypot angle conj conj_physical quantize_per_tensor "
    "fake_quantize_per_tensor_affine"
)
BINARY = (
    "add radd iadd sub rsub isub subtract mul rmul imul multiply div rdiv idiv divide truediv rtruediv itruediv "
    "true_divide floordiv rfloordiv ifloordiv floor_divide mod rmod imod remainder fmod maximum minimum fmax fmin lerp "
    "addcmul addcdiv masked_fill atan2 arctan2 logaddexp logaddexp2 copysign eq ne lt le gt ge less less_equal greater "
    "greater_equal not_equal logical_and logical_or logical_xor and or xor rand ror rxor iand ior ixor bitwise_and "
    "bitwise_or bitwise_xor xlogy heaviside isclose complex polar"
)
RULES = {
    f"{UNARY} {BINARY}": elementwise,
    "where": chosen,
    "glu": halves,
    "prelu": slopes,
    "rand_like randn_like randint_like bernoulli normal uniform exponential multinomial random log_normal cauchy "
    "geometric poisson": random_like,
    "weight_norm weight_norm_interface": normed_weight,
    "item tolist numpy index is_nonzero equal allclose array dlpack data_ptr contains": leaves_torch,
    "view_as_real": as_pairs,
    "view_as_complex": from_pairs,
    "tril triu": triangle,
    "cosine_similarity pairwise_distance dist cdist pdist cross linalg_cross cross_entropy nll_loss mse_loss "
    "l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div ctc_loss "
    "stft istft fft_fft2 fft_rfft2 fft_fftn fft_rfftn matrix_exp linalg_matrix_exp linalg_qr qr linalg_svd svd "
    "linalg_inv inverse linalg_solve linalg_cholesky cholesky linalg_eigh linalg_det det "
    "linalg_householder_product orgqr geqrf trace kron logdet linalg_slogdet linalg_pinv pinverse "
    "linalg_matrix_power matrix_power linalg_solve_triangular linalg_lu_factor linalg_ldl_factor masked_select "
    "masked_scatter nonzero argwhere unique unique_consecutive bincount histc one_hot searchsorted bucketize "
    "renorm embedding_renorm im2col col2im fold pixel_shuffle pixel_unshuffle grid_sampler grid_sample "
    "affine_grid local_response_norm": mixed,
}
