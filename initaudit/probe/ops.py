"""What each torch function does to the signal: its :class:`Role`, and where its units lie.

Names are those of the functions as torch dispatches them, without the in-place underscore.
A name that stands in no table is ``OTHER``: it is recorded, and its output judged by what is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from initaudit.records import Role

ACTIVATIONS = frozenset(
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardtanh tanh sigmoid hardsigmoid "
    "logsigmoid log_sigmoid softplus softsign tanhshrink hardshrink softshrink threshold expit erf erfc sin cos exp "
    "expm1 exp2 log log1p log2 sqrt rsqrt square reciprocal abs absolute pow float_power __pow__ __rpow__ clamp "
    "clamp_min clamp_max clip sign sinc atan arctan sinh cosh asinh tan logit nan_to_num".split()
)
SCALES = frozenset(
    "dropout alpha_dropout feature_dropout feature_alpha_dropout dropout1d dropout2d dropout3d neg __neg__ "
    "negative positive".split()
)
CHOICES = frozenset("where masked_fill masked_scatter round floor ceil trunc frac fmod remainder lerp".split())
ADDS = frozenset("add __add__ __radd__ __iadd__ sub __sub__ __rsub__ __isub__ subtract rsub addcmul addcdiv".split())
MULS = frozenset(
    "mul __mul__ __rmul__ __imul__ multiply div __truediv__ __rtruediv__ __rdiv__ __itruediv__ __idiv__ "
    "true_divide divide maximum minimum max min".split()
)
NORMS = frozenset(
    "layer_norm batch_norm group_norm instance_norm rms_norm local_response_norm normalize native_layer_norm "
    "native_batch_norm native_group_norm".split()
)
ATTENTION = frozenset(
    "softmax log_softmax softmin gumbel_softmax scaled_dot_product_attention matmul __matmul__ __rmatmul__ mm bmm "
    "baddbmm einsum tensordot inner outer cdist".split()
)
ATTENDING = frozenset({"softmax", "scaled_dot_product_attention"})
POOLS = frozenset(
    "mean sum nansum amax amin logsumexp var std norm vector_norm cumsum max_pool1d max_pool2d max_pool3d "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d interpolate upsample "
    "grid_sample argmax topk scatter_add index_add scatter_reduce".split()
)
CONCATS = frozenset("cat concat concatenate stack hstack vstack dstack pad constant_pad_nd".split())
VIEWS = frozenset(
    "view reshape view_as reshape_as flatten unflatten transpose permute movedim moveaxis swapaxes swapdims "
    "squeeze unsqueeze expand expand_as repeat repeat_interleave tile contiguous clone detach to type type_as "
    "float double half bfloat16 cpu cuda chunk split split_with_sizes tensor_split unbind narrow select "
    "__getitem__ index_select gather take take_along_dim masked_select roll flip t adjoint T mT H mH data real "
    "imag diagonal unfold fold pixel_shuffle pixel_unshuffle channel_shuffle requires_grad_ alias view_as_real "
    "view_as_complex broadcast_to ravel sort broadcast_tensors atleast_1d atleast_2d atleast_3d rot90 tril triu "
    "complex resolve_conj conj hsplit vsplit dsplit as_strided".split()
)
PRODUCTS = frozenset("matmul __matmul__ __rmatmul__ mm bmm baddbmm einsum tensordot mv grouped_mm".split())
EMBEDDINGS = frozenset("embedding embedding_bag".split())
RECURRENT = frozenset("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell".split())
OVER_BATCH = frozenset("batch_norm native_batch_norm".split())
REDUCTIONS_TO_LOSS = frozenset("cross_entropy nll_loss".split())
FILLS = frozenset("zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full".split())
# Functions whose output is finite wherever their input is.
KEEP_FINITE = NORMS | frozenset(
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardtanh tanh sigmoid hardsigmoid "
    "softsign dropout clamp softmax max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d".split()
)
COMPARISONS = frozenset(
    "gt lt ge le eq ne __gt__ __lt__ __ge__ __le__ __eq__ __ne__ greater less logical_not sgn".split()
)
ELEMENTWISE = ACTIVATIONS | SCALES | CHOICES | ADDS | MULS | COMPARISONS

# Outputs beyond which the derivative is below about 6% of its maximum: |tanh(z)| = 0.97 is |z| = 2.09.
_SATURATION: dict[str, tuple[float, float]] = {
    "tanh": (-0.97, 0.97),
    "sigmoid": (0.015, 0.985),
    "expit": (0.015, 0.985),
    "hardsigmoid": (0.0, 1.0),
    "erf": (-0.983, 0.983),
    "softsign": (-0.755, 0.755),
}
_FLAGS = frozenset(["requires_grad_", "share_memory_"])  # change no value
_NOT_IN_PLACE = {"__iadd__": "__add__", "__isub__": "__sub__", "__imul__": "__mul__", "__itruediv__": "__truediv__"}


def base_name(name: str) -> str:
    """The name without marks: ``relu_``, ``__iadd__``, ``special_expit`` act as ``relu``, ``__add__``, ``expit``."""
    if name.startswith("__"):
        return _NOT_IN_PLACE.get(name, name)
    return name.removeprefix("_").removeprefix("special_").removesuffix("_")


def flat_ends(name: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[float, float] | None:
    """The outputs beyond which an activation counts as saturated; ``None`` for one that is not flat at both ends."""
    if name != "hardtanh":
        return _SATURATION.get(name)
    given = {**dict(zip(("input", "min_val", "max_val"), arguments, strict=False)), **keywords}
    low, high = given.get("min_val", -1.0), given.get("max_val", 1.0)
    return (low, high) if low < 0 < high else None  # torch's ReLU6 is a hardtanh from 0 to 6


def is_in_place(name: str) -> bool:
    """Whether a call under this name overwrites its first argument."""
    if name.startswith("__"):
        return name in _NOT_IN_PLACE or name == "__setitem__"
    return name.endswith("_") and name not in _FLAGS


def role_of(name: str, moving: int) -> Role:
    """The role of function ``name`` when ``moving`` of its operands depend on the model's input."""
    if name in VIEWS:
        return Role.VIEW
    if name in NORMS:
        return Role.NORM
    if name in ACTIVATIONS:
        return Role.ACTIVATION
    if name in ADDS:
        return Role.JOIN if moving > 1 else Role.SCALE
    if name in MULS:
        return Role.GATE if moving > 1 else Role.ACTIVATION if name in ("maximum", "minimum") else Role.SCALE
    if name in SCALES:
        return Role.SCALE
    if name in CONCATS:
        return Role.CONCAT
    if name in ATTENTION:
        return Role.ATTENTION
    if name in POOLS:
        return Role.POOL
    return Role.OTHER


def unit_dim(name: str, dim: int) -> int:
    """Where the units lie in a ``dim``-dimensional output of ``name``: channels of images, else the last."""
    if name.startswith(("conv", "max_pool", "avg_pool", "adaptive_")) or name in (
        "batch_norm",
        "group_norm",
        "instance_norm",
    ):
        return 1 if dim > 2 else -1
    return -1
