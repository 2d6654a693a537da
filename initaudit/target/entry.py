"""The layers that may see a model's input first, each with the shapes it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.parameter import is_lazy

from initaudit.probe.shards import class_of
from initaudit.target.spatial import image_sizes, usual_sizes
from initaudit.target.templates import BATCH, Template, images, tokens

_LAZY_WIDTH = 64  # features of an input whose width the model leaves open
_STEPS = 16  # length of a sequence of vectors
_TOKENS = 32  # length of a sequence of tokens
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ATTENTIONS = (
    nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
    nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A layer that may see data: its path, how to name it, its family, and templates, most likely first."""

    fqn: str
    label: str
    family: str  # image, tokens, vectors, bilinear
    templates: tuple[Template, ...]


def entries(model: nn.Module) -> list[Entry]:
    """Layers that fix the shape of their input, in definition order; norms and bare parameters if there are none."""
    batch_first = _batch_first(model)
    found = [entry for fqn, module in _outermost(model, "") if (entry := _entry(model, fqn, module, batch_first))]
    if all(entry.family == "tokens" and is_auxiliary(entry.fqn) for entry in found):
        found += [entry for fqn, module in model.named_modules() if (entry := _norm_entry(fqn, module))]
    return found or bare_parameters(model)


def bare_parameters(model: nn.Module) -> list[Entry]:
    """Matrices that may be multiplied with the input, from either side, in definition order."""
    return [
        Entry(
            name, f"parameter {name}{list(p.shape)}", "vectors", _vectors(p.shape[1], None) + _vectors(p.shape[0], None)
        )
        for name, p in model.named_parameters()
        if not is_lazy(p) and p.dim() == 2
    ]


def _outermost(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Modules from the outside in; what is inside a recurrent or attention layer does not see the input itself."""
    yield prefix, module
    if isinstance(module, (nn.RNNBase, *_ATTENTIONS)):
        return
    for name, child in module.named_children():
        yield from _outermost(child, f"{prefix}.{name}" if prefix else name)


def _batch_first(model: nn.Module) -> bool | None:
    """The orientation of the model's first sequence layer; None when it has none."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            return bool(module.batch_first)
        if isinstance(module, nn.MultiheadAttention):
            return bool(module.batch_first)
    return None


def _entry(model: nn.Module, fqn: str, module: nn.Module, batch_first: bool | None) -> Entry | None:
    kind = class_of(module).__name__
    if isinstance(module, nn.Linear):
        width = module.in_features or _LAZY_WIDTH
        return Entry(
            fqn,
            f"{kind}({width}, {module.out_features})",
            "vectors",
            _vectors(width, batch_first) + _unflattened(width),
        )
    if isinstance(module, _CONVOLUTIONS):
        channels = module.in_channels or (3 if isinstance(module, nn.Conv2d) else 1)
        dims = len(module.kernel_size)
        is_first = module is next(m for m in model.modules() if isinstance(m, _CONVOLUTIONS))
        sizes = image_sizes(model, module) if is_first else usual_sizes(module)
        shapes = tuple(images(channels, *[size] * dims, batch=8 if dims == 3 else None) for size in sizes)
        if dims == 3:
            shapes += (images(channels, 16, 112, 112), images(channels, 8, 64, 64))
        return Entry(fqn, f"{kind}({channels}, {module.out_channels})", "image", shapes)
    if isinstance(module, _ConvTransposeNd):
        channels = module.in_channels or _LAZY_WIDTH
        dims = len(module.kernel_size)
        shapes = tuple(images(channels, *[size] * dims, batch=32) for size in (1, 8, 4))
        return Entry(fqn, f"{kind}({channels}, {module.out_channels})", "image", shapes)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return Entry(
            fqn, f"{kind}({module.num_embeddings}, {module.embedding_dim})", "tokens", _token_shapes(model, module)
        )
    if isinstance(module, nn.RNNBase):
        sequence = _sequence(module.input_size, module.batch_first)
        return Entry(fqn, f"{kind}({module.input_size}, {module.hidden_size})", "vectors", (sequence,))
    if isinstance(module, nn.RNNCellBase):
        return Entry(
            fqn, f"{kind}({module.input_size}, {module.hidden_size})", "vectors", _vectors(module.input_size, None)
        )
    if isinstance(module, _ATTENTIONS):
        attention = next(m for m in module.modules() if isinstance(m, nn.MultiheadAttention))
        sequence = _sequence(attention.embed_dim, attention.batch_first)
        return Entry(fqn, f"{kind}({attention.embed_dim})", "vectors", (sequence,))
    if isinstance(module, nn.Bilinear):
        first, second = (Template((BATCH, width), 64) for width in (module.in1_features, module.in2_features))
        return Entry(fqn, f"Bilinear({module.in1_features}, {module.in2_features})", "bilinear", (first, second))
    return None


def _norm_entry(fqn: str, module: nn.Module) -> Entry | None:
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        shape = tuple(module.normalized_shape)
        wide = (BATCH, _STEPS, *shape) if len(shape) == 1 else (BATCH, *shape)
        return Entry(fqn, f"{class_of(module).__name__}({', '.join(map(str, shape))})", "vectors", (Template(wide),))
    if isinstance(module, _BatchNorm | nn.GroupNorm):
        channels = module.num_features if isinstance(module, _BatchNorm) else module.num_channels
        shapes = (
            Template((BATCH, channels), 64),
            images(channels, 32, 32),
            images(channels, 64),
            images(channels, 16, 16, 16),
        )
        return Entry(fqn, f"{class_of(module).__name__}({channels})", "vectors", shapes)
    return None


def _sequence(width: int, batch_first: bool) -> Template:
    return Template((BATCH, _STEPS, width) if batch_first else (_STEPS, BATCH, width))


def _vectors(width: int, batch_first: bool | None) -> tuple[Template, ...]:
    """Single vectors, then sequences; with a sequence layer in the model the other way round.

    Recurrent and attention layers take ``[64, width]`` as well, as one long sequence without a batch.
    """
    flat = Template((BATCH, width), 64)
    if batch_first is None:
        return flat, _sequence(width, True)
    return _sequence(width, batch_first), flat


def _unflattened(width: int) -> tuple[Template, ...]:
    """Images that become ``width`` numbers when flattened, for models that ask for four dimensions first."""
    return tuple(
        images(channels, isqrt(width // channels), isqrt(width // channels))
        for channels in (1, 3)
        if width >= 64 and width % channels == 0 and isqrt(width // channels) ** 2 == width // channels
    )


def is_auxiliary(fqn: str) -> bool:
    """Whether an embedding's name says that it holds positions, types or steps, and not the tokens."""
    return any(word in fqn.lower() for word in ("pos", "type", "seg", "time", "wpe"))


def _token_shapes(model: nn.Module, embedding: nn.Embedding | nn.EmbeddingBag) -> tuple[Template, ...]:
    embeddings = {fqn: m for fqn, m in model.named_modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    positions = [m.num_embeddings for fqn, m in embeddings.items() if "pos" in fqn.lower() or "wpe" in fqn.lower()]
    steps = min([_TOKENS, *(count for count in positions if count > 1)])
    vocabulary = embedding.num_embeddings
    low = 1 if embedding.padding_idx == 0 and vocabulary > 2 else 0
    smallest = min(m.num_embeddings for m in embeddings.values())
    if any(isinstance(m, nn.RNNBase) and not m.batch_first for m in model.modules()):
        sequences = Template((steps, BATCH), 8, tokens(vocabulary).fill, low, vocabulary)
    else:
        sequences = tokens(vocabulary, steps, low=low)
    shapes = [sequences, tokens(vocabulary, low=low, batch=64), tokens(vocabulary, 8, low=low)]
    if len(embeddings) > 1:
        shapes.insert(1, tokens(smallest, len(embeddings), batch=64))  # one column for each category of a table
        shapes.append(tokens(smallest, min(steps, smallest)))
    return tuple(shapes)
