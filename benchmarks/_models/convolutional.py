"""Convolutional networks with batch normalization, and VGG without: He initialization in its several dialects."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

from _models._family import Family, he_, noise


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(before, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def shortcut(before: int, after: int, stride: int) -> nn.Module | None:
    if stride == 1 and before == after:
        return None
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


class ResNet(nn.Module):
    """He et al. 2016 as torchvision builds it, a quarter of the width. ``zero_init`` is Goyal et al. 2017."""

    def __init__(self, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...], zero_init: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before, stages = 32, []
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                blocks.append(block(before, 32 * 2**i, 2 if i and not j else 1))
                before = 32 * 2**i * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(before, 100)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init and isinstance(m, Bottleneck):
                init.zeros_(m.bn3.weight)
            elif zero_init and isinstance(m, BasicBlock):
                init.zeros_(m.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class DenseNet(nn.Module):
    """Huang et al. 2017: BN-ReLU-conv units whose outputs are all concatenated, growth 12, three blocks of 8."""

    class Unit(nn.Module):
        def __init__(self, before: int, growth: int) -> None:
            super().__init__()
            self.norm1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, 4 * growth, 1, bias=False)
            self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv1(F.relu(self.norm1(x), inplace=True))
            return torch.cat([x, self.conv2(F.relu(self.norm2(h), inplace=True))], 1)

    def __init__(self, growth: int = 12, units: int = 8) -> None:
        super().__init__()
        width = 2 * growth
        features: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False)]
        for block in range(3):
            for _ in range(units):
                features.append(self.Unit(width, growth))
                width += growth
            features += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            if block < 2:
                features += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
                width //= 2
        self.features, self.classifier = nn.Sequential(*features), nn.Linear(width, 10)
        he_(self.features)
        init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class VGG(nn.Module):
    """VGG-16 (Simonyan & Zisserman 2015) for 32 pixels at a quarter of the width, as torchvision starts it."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in (16, 16, 0, 32, 32, 0, 64, 64, 64, 0, 128, 128, 128, 0, 128, 128, 128, 0):
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers.append(nn.Conv2d(before, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(nn.ReLU(inplace=True))
            before = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(128, 128), nn.ReLU(True), nn.Dropout(), nn.Linear(128, 128), nn.ReLU(True), nn.Dropout(),
            nn.Linear(128, 10),
        )  # fmt: skip
        he_(self.features)
        he_(self.classifier[:-1])
        init.normal_(self.classifier[-1].weight, 0, 0.01)
        init.zeros_(self.classifier[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class UNet(nn.Module):
    """Ronneberger et al. 2015: four levels, skips by concatenation; their N(0, sqrt(2/N)), batch norm added."""

    @staticmethod
    def double(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
        )  # fmt: skip

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(self.double(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[-2::-1])
        self.merge = nn.ModuleList(self.double(2 * w, w) for w in widths[-2::-1])
        self.out = nn.Conv2d(width, 3, 1)
        he_(self.down)
        he_(self.merge)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for i, down in enumerate(self.down):
            x = down(x if i == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat((skip, up(x)), dim=1))
        return self.out(x)


class InvertedResidual(nn.Module):
    def __init__(self, before: int, after: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = before * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [nn.Conv2d(before, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True), nn.Conv2d(hidden, after, 1, bias=False), nn.BatchNorm2d(after),
        ]  # fmt: skip
        self.conv, self.keeps = nn.Sequential(*layers), stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.keeps else self.conv(x)


class MobileNetV2(nn.Module):
    """Sandler et al. 2018 with all its 17 blocks, three eighths of the width, torchvision's fan-out He."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(True))
        blocks: list[nn.Module] = []
        before = 16
        shapes = (
            (1, 8, 1, 1),
            (6, 12, 2, 1),
            (6, 16, 3, 2),
            (6, 24, 4, 2),
            (6, 40, 3, 1),
            (6, 64, 3, 2),
            (6, 120, 1, 1),
        )
        for expand, after, repeats, stride in shapes:
            for i in range(repeats):
                blocks.append(InvertedResidual(before, after, stride if i == 0 else 1, expand))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.Conv2d(before, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU6(True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(256, 10))
        he_(self, mode="fan_out")
        init.normal_(self.classifier[1].weight, 0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.last(self.blocks(self.stem(x))).mean([2, 3]))


class MBConv(nn.Module):
    """An inverted residual with SiLU and squeeze-and-excitation (Hu et al. 2018)."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden, squeezed = before * expand, max(4, before // 4)
        self.expand = None
        if expand != 1:
            self.expand, self.bn0 = nn.Conv2d(before, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.reduce, self.excite = nn.Conv2d(hidden, squeezed, 1), nn.Conv2d(squeezed, hidden, 1)
        self.project, self.bn2 = nn.Conv2d(hidden, after, 1, bias=False), nn.BatchNorm2d(after)
        self.keeps = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.bn0(self.expand(x))) if self.expand is not None else x
        h = F.silu(self.bn1(self.depthwise(h)))
        h = h * torch.sigmoid(self.excite(F.silu(self.reduce(h.mean((2, 3), keepdim=True)))))
        h = self.bn2(self.project(h))
        return x + h if self.keeps else h


class EfficientNet(nn.Module):
    """Tan & Le 2019, B0's sixteen blocks at half the width: N(0, sqrt(2 / fan_out)), fan-out divided by groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        blocks: list[nn.Module] = []
        before = 16
        shapes = ((1, 8, 1, 3, 1), (6, 12, 2, 3, 2), (6, 20, 2, 5, 2), (6, 40, 3, 3, 2), (6, 56, 3, 5, 1),
                  (6, 96, 4, 5, 2), (6, 160, 1, 3, 1))  # fmt: skip
        for expand, after, repeats, kernel, stride in shapes:
            for i in range(repeats):
                blocks.append(MBConv(before, after, kernel, stride if i == 0 else 1, expand))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.Conv2d(before, 320, 1, bias=False), nn.BatchNorm2d(320), nn.SiLU())
        self.classifier = nn.Linear(320, 10)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                fan_out = m.kernel_size[0] * m.kernel_size[1] * m.out_channels // m.groups
                init.normal_(m.weight, 0, (2.0 / fan_out) ** 0.5)
                if m.bias is not None:
                    init.zeros_(m.bias)
        init.uniform_(self.classifier.weight, -(10**-0.5), 10**-0.5)
        init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.last(self.blocks(self.stem(x))).mean((2, 3)))


FAMILIES = {
    "ResNet-18": Family(lambda: ResNet(BasicBlock, (2, 2, 2, 2), False), noise(8, 3, 96, 96)),
    "ResNet-18, gamma 0": Family(lambda: ResNet(BasicBlock, (2, 2, 2, 2), True), noise(8, 3, 96, 96)),
    "ResNet-50": Family(lambda: ResNet(Bottleneck, (3, 4, 6, 3), False), noise(8, 3, 96, 96)),
    "ResNet-50, gamma 0": Family(lambda: ResNet(Bottleneck, (3, 4, 6, 3), True), noise(8, 3, 96, 96)),
    "DenseNet": Family(DenseNet, noise(8, 3, 32, 32)),
    "VGG-16": Family(lambda: VGG(norm=False), noise(16, 3, 32, 32)),
    "VGG-16, batch norm": Family(lambda: VGG(norm=True), noise(16, 3, 32, 32)),
    "U-Net": Family(UNet, noise(4, 3, 64, 64)),
    "MobileNetV2": Family(MobileNetV2, noise(8, 3, 48, 48)),
    "EfficientNet": Family(EfficientNet, noise(8, 3, 48, 48)),
}
