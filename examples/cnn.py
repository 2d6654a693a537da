"""A small residual network for 32 x 32 images with He initialization: the audit passes.

Convolutions have a fan_in of channels times kernel area; `kaiming_normal_` counts it so. Batch normalization sets
the scale anew behind every convolution, and the residual path adds a little in each block: growth by a few units of
variance through the depth is what such a network does, and no fault.

    initaudit examples/cnn.py

The sample input is inferred from the first convolution: three channels, and a size that all layers accept.
"""

from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        branch = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(branch)) + self.shortcut(x))


class SmallResNet(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.stages = nn.Sequential(
            Block(16, 16), Block(16, 16),
            Block(16, 32, stride=2), Block(32, 32),
            Block(32, 64, stride=2), Block(64, 64),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.head.weight, nonlinearity="linear")
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.stages(self.stem(x))).flatten(1))


if __name__ == "__main__":
    import rich

    import initaudit

    rich.print(initaudit.audit(SmallResNet))
