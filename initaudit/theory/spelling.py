"""How activations are written: their names, their arguments, and what goes by such a name and has no gain.

Arguments are read as literals (``leaky_relu(0.2)``, ``torch.nn:ELU(alpha=0.5)``); nothing that was typed is evaluated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from initaudit.errors import UnknownActivationError

ALIASES = {
    "linear": "identity",
    "swish": "silu",
    "hswish": "hardswish",
    "hsigmoid": "hardsigmoid",
    "quickgelu1702": "quick_gelu",
    "gelunew": "gelu(tanh)",
    "gelufast": "gelu(tanh)",
    "gelupytorchtanh": "gelu(tanh)",
    "geluapproximatetanh": "gelu(tanh)",
    "gelunone": "gelu",
    "geluerf": "gelu",
    "relusquared": "relu2",
    "squaredrelu": "relu2",
    "sine": "sin",
}
"""Other names of known activations, plain."""

_SOFTMAX = (
    "turns each row of logits into weights that sum to one: an output depends on the whole row, and no gain describes "
    "it. What it wants is logits of variance about 1, which is gain 1 in the layer before it"
)
_LAYER = (
    "is a layer with weights of its own, and has fans instead of a gain: ask initaudit.fan_in_and_fan_out(module, name)"
)
_DROPOUT = (
    "draws a new mask at each call. While training it multiplies the mean square by 1/(1 - p), so a layer that reads "
    "it wants sqrt(1 - p) times the gain of the activation beside it; in eval() mode it does nothing"
)
_ALPHA_DROPOUT = "draws a new mask at each call, and keeps mean and variance: SELU keeps its gain of 1 beside it"
_NORM = (
    "sets the scale anew, whatever comes in, so no gain describes it: "
    "any gain will do in the layer before it, and the one after it wants 1"
)
_SEVERAL = "makes one output of several inputs, so it is not elementwise and no single gain describes it"
_NO_GAIN: Mapping[str, str] = {
    name: text
    for text, names in {
        _SOFTMAX: "softmax softmin log_softmax softmax2d gumbel_softmax",
        _LAYER: "multihead_attention multi_head_attention_forward scaled_dot_product_attention linear bilinear conv1d "
        "conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d embedding embedding_bag rnn lstm gru",
        _DROPOUT: "dropout dropout1d dropout2d dropout3d",
        _ALPHA_DROPOUT: "alpha_dropout feature_alpha_dropout",
        _NORM: "layer_norm batch_norm batch_norm1d batch_norm2d batch_norm3d sync_batch_norm group_norm instance_norm "
        "instance_norm1d instance_norm2d instance_norm3d rms_norm local_response_norm normalize",
        _SEVERAL: "maxout maxpool1d maxpool2d maxpool3d avgpool1d avgpool2d avgpool3d",
    }.items()
    for name in (word.replace("_", "") for word in names.split())
}


def plain(name: str) -> str:
    """Letters and digits alone, in lower case: ``"LogSigmoid"`` and ``"log_sigmoid"`` are one name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def why_no_gain(name: str) -> str | None:
    """What a function or layer that goes by ``name`` does instead of having a gain, or ``None``."""
    return _NO_GAIN.get(plain(name))


def without_prefix(text: str) -> str:
    """``text`` without torch's own prefixes: ``nn.``, ``F.``, ``torch.``, ``torch.nn.functional.``."""
    return re.sub(r"^\s*(torch\.)?(nn\.)?(functional\.|F\.)?", "", text).strip()


@dataclass(frozen=True, slots=True)
class Spelling:
    """What was typed, taken apart: ``factor * head(*args, **kwargs)``."""

    head: str
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    factor: float = 1.0

    @property
    def has_arguments(self) -> bool:
        return bool(self.args or self.kwargs)


_FACTOR = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*\*\s*(?=[A-Za-z_])", re.IGNORECASE)


def spelled(text: str) -> Spelling:
    """Take ``text`` apart. Raises ``UnknownActivationError`` for arguments that are no literals."""
    factor = 1.0
    rest = text
    if match := _FACTOR.match(text):
        factor, rest = float(match[1]), text[match.end() :]
    head = rest.partition("(")[0]
    arguments = rest[len(head) :].strip()
    if not arguments:
        return Spelling(head.strip(), factor=factor)
    try:
        call = ast.parse(f"f{arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("not one call")
        args = tuple(ast.literal_eval(value) for value in call.args)
        kwargs = {_keyword(word): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise UnknownActivationError(
            f"cannot read the arguments of {text!r}: expected literals, as in 'leaky_relu(0.2)' or 'elu(alpha=0.5)'"
        ) from error
    return Spelling(head.strip(), args, kwargs, factor)


def _keyword(word: ast.keyword) -> str:
    if word.arg is None:
        raise ValueError("** is no literal")
    return word.arg
