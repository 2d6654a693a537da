"""How large an image (or signal, or volume) a convolutional net expects, read from its layers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE_POOLS = (
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_COMMON = (32, 28, 64, 224, 96, 84, 128, 16, 48, 256, 299, 8)
_MATCHES = 3  # sizes that fit a flattening, of those that do

Window = tuple[int, int, int, int]  # kernel, stride, padding, dilation


def image_sizes(model: nn.Module, first: nn.Module) -> list[int]:
    """Side lengths to try for the input of ``first``, the model's first convolution, most likely first.

    A later Linear's ``in_features`` or a learned position embedding fixes the size; else :func:`usual_sizes`.
    """
    assert isinstance(first, _CONVOLUTIONS)
    fixed = _from_positions(model, first) or _from_flattening(model, first)
    return list(dict.fromkeys(chain(fixed, usual_sizes(first))))


def usual_sizes(convolution: nn.Module) -> list[int]:
    """Side lengths by the kind of stem: small images or large ones, signals, volumes."""
    assert isinstance(convolution, _CONVOLUTIONS)
    kernel, stride = int(convolution.kernel_size[0]), int(convolution.stride[0])
    if isinstance(convolution, nn.Conv1d):
        return [16000, 4000, 1024] if kernel * stride >= 50 else [128, 64, 1024, 16000]
    if isinstance(convolution, nn.Conv3d):
        return [16, 32, 64]
    if kernel == stride and kernel > 1:  # patches
        return [224, 32, 64, 28] if kernel >= 8 else [32, 64, 28, 224]
    if stride > 1:
        return [224, 64, 32, 28, 96]
    return [28, 32, 64, 224] if convolution.in_channels == 1 else [32, 64, 224, 28, 96]


def _from_positions(model: nn.Module, first: Any) -> list[int]:
    """Sizes whose patches are as many as a parameter ``[1, patches (+ class token), width]`` has rows."""
    kernel, width, dims = first.kernel_size[0], first.out_channels, len(first.kernel_size)
    if first.kernel_size != first.stride or kernel == 1:
        return []
    for parameter in model.parameters():
        if not is_lazy(parameter) and parameter.dim() == 3 and parameter.shape[0] == 1 and parameter.shape[2] == width:
            rows = parameter.shape[1]
            for patches in (rows, rows - 1, rows - 2):  # with none, one or two extra tokens
                side = round(max(patches, 0) ** (1 / dims))
                if side > 1 and side**dims == patches:
                    return [side * kernel]
    return []


def _from_flattening(model: nn.Module, first: Any) -> list[int]:
    """Sizes after which the feature maps, flattened, are as long as the first Linear's input."""
    dims = len(first.kernel_size)
    windows: list[tuple[bool, Window]] = []
    channels, features, started = 0, 0, False
    for module in model.modules():
        started = started or module is first
        if not started:
            continue
        if isinstance(module, _ADAPTIVE_POOLS):
            return []
        if isinstance(module, (*_CONVOLUTIONS, *_POOLS)):
            windows.append((isinstance(module, _POOLS), _window(module)))
            channels = getattr(module, "out_channels", channels)
        elif isinstance(module, nn.Linear):
            features = module.in_features
            break
    if not features or not channels or features % channels:
        return []
    side = round((features // channels) ** (1 / dims))
    if side**dims != features // channels or side == 1:  # side 1 is a global pooling as well
        return []
    largest = 257 if dims > 1 else 4097
    sizes = [*(size for size in _COMMON if size < largest), *range(4, largest)]
    plans = list(_plans(windows))
    fitting = (size for size in dict.fromkeys(sizes) if any(_out_size(size, plan) == side for plan in plans))
    return list(islice(fitting, _MATCHES))


def _plans(windows: list[tuple[bool, Window]]) -> Iterator[list[Window]]:
    """The windows as defined, then with the functional poolings that modules do not show."""
    halving: Window = (2, 2, 0, 1)
    as_defined = [window for _, window in windows]
    convolutions = [window for is_pool, window in windows if not is_pool]
    yield as_defined
    yield [*chain.from_iterable((window, halving) for window in convolutions)]
    for poolings in (1, 2, 3):
        yield as_defined + [halving] * poolings


def _window(module: Any) -> Window:
    def first(value: Any) -> int:
        return int(value[0] if isinstance(value, tuple) else value)

    kernel, dilation = first(module.kernel_size), first(getattr(module, "dilation", 1))
    if isinstance(module.padding, str):
        padding = dilation * (kernel - 1) // 2 if module.padding == "same" else 0
    else:
        padding = first(module.padding)
    return kernel, first(module.stride), padding, dilation


def _out_size(size: int, windows: list[Window]) -> int:
    for kernel, stride, padding, dilation in windows:
        size = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        if size < 1:
            return 0
    return size
