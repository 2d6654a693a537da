"""The image size that a net was written for, from its layers."""

import pytest
from torch import nn

from initaudit.target.spatial import image_sizes


def sizes(*layers):
    model = nn.Sequential(*layers)
    return image_sizes(model, model[0])


@pytest.mark.parametrize("size", [28, 32, 64, 96, 224])
@pytest.mark.parametrize("poolings", [1, 2])
def test_a_flattening_fixes_the_size(size, poolings):
    convolutions = [
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2)),
    ]
    body = [layer for block in convolutions[:poolings] for layer in block]
    side = size // 2**poolings
    assert sizes(*body, nn.Flatten(), nn.Linear(8 * side * side, 10))[0] == size


def test_dilation_stride_and_same_padding_are_followed():
    # 40 -> 40 ("same") -> 36 (dilation 2) -> 18 (stride 2)
    layers = [nn.Conv2d(3, 4, 5, padding="same"), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 2, stride=2)]
    found = sizes(*layers, nn.Flatten(), nn.Linear(4 * 18 * 18, 2))
    assert 40 in found[:2]


def test_signals_and_volumes():
    assert sizes(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 98, 2))[0] == 100
    assert sizes(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 22**3, 2))[0] == 24


def test_a_global_pooling_leaves_the_size_open():
    open_ended = sizes(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(8 * 49, 2))
    assert open_ended[0] == 32
    assert sizes(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))[0] == 32


def test_stems_tell_small_images_from_large_ones():
    assert sizes(nn.Conv2d(1, 8, 3))[0] == 28
    assert sizes(nn.Conv2d(3, 8, 3, stride=2))[0] == 224
    assert sizes(nn.Conv2d(3, 8, 16, stride=16))[0] == 224
    assert sizes(nn.Conv2d(3, 8, 4, stride=4))[0] == 32
