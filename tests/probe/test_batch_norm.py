"""What a batch norm tells of tensors that are then not read must be what reading them would tell."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initaudit import audit
from initaudit.probe import statistics
from initaudit.probe.devices import FEW
from tests.probe.probing import randn

SHAPE = (4, 24, 110, 110)
CHANNELS = SHAPE[1]
SEEN: list[Tensor] = []  # what the model computed; a list of its own would be put back
assert torch.Size(SHAPE).numel() > FEW


class Block(nn.Module):
    """A convolution whose output, times ``scale``, is normalized."""

    def __init__(self, norm: nn.Module, scale: float = 1.0, spoil: float | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 3, padding=1)
        nn.init.normal_(self.conv.weight, std=scale)
        nn.init.normal_(self.conv.bias, std=scale)
        self.norm, self.spoil = norm, spoil

    def forward(self, x: Tensor) -> Tensor:
        if self.spoil is not None:
            x = x.clone()
            x[-1, -1, -1, -1] = self.spoil
        z = self.conv(x)
        y = self.norm(z)
        SEEN[:] = [z.detach().clone(), y.detach().clone()]
        return y.relu_()


def drawn(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


NORMS: dict[str, Callable[[], nn.Module]] = {
    "as torch makes it": lambda: nn.BatchNorm2d(CHANNELS),
    "drawn": lambda: drawn(nn.BatchNorm2d(CHANNELS)),
    "zero gains": lambda: nn.Sequential(nn.BatchNorm2d(CHANNELS)),
    "not affine": lambda: nn.BatchNorm2d(CHANNELS, affine=False, track_running_stats=False),
    "large epsilon": lambda: nn.BatchNorm2d(CHANNELS, eps=0.5),
    "instance norm": lambda: nn.InstanceNorm2d(CHANNELS),
    "other order of arguments": lambda: Call(),
}


class Call(nn.Module):
    """The function below ``F.batch_norm``, which takes its arguments in another order."""

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.full((CHANNELS,), 3.0)
        return torch.batch_norm(x, weight, None, None, None, True, 0.1, 1e-5, False)


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def measured(model: Block, x: Tensor) -> tuple[float, float]:
    report = audit(model, x)
    assert report.trace is not None
    stats = {op.name: op.stats for op in report.trace.ops if op.stats is not None}
    norm = next(s for name, s in stats.items() if name.endswith("_norm"))
    return stats["conv2d"].rms, norm.rms


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-5])
def test_rms_before_and_after_a_batch_norm(name: str, scale: float) -> None:
    model = Block(NORMS[name](), scale)
    if name == "zero gains":
        nn.init.zeros_(model.norm[0].weight)  # type: ignore[index, arg-type]
    found = measured(model, randn(SHAPE[0], 3, *SHAPE[2:]))
    assert found == pytest.approx(tuple(map(rms, SEEN)), rel=2e-5)


def test_large_tensors_around_a_batch_norm_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    make = statistics.reader

    def counted(like: Tensor) -> Callable[[Tensor], object]:
        reads = make(like)
        return lambda tensor: (read.append(tuple(tensor.shape)), reads(tensor))[1]

    monkeypatch.setattr(statistics, "reader", counted)
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU())
    audit(model, randn(SHAPE[0], 3, *SHAPE[2:]))
    forward, backward = [SHAPE], 3 * [SHAPE]  # the output of relu, and the gradients of all three
    assert [shape for shape in read if shape == SHAPE] == forward + backward


@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
def test_one_bad_value_before_a_batch_norm_is_found(spoil: float) -> None:
    model = Block(nn.BatchNorm2d(CHANNELS), spoil=spoil)
    report = audit(model, randn(SHAPE[0], 3, *SHAPE[2:]))
    assert report.trace is not None
    conv = next(op.stats for op in report.trace.ops if op.name == "conv2d")
    assert conv is not None
    assert conv.nonfinite >= 1


class Overwritten(nn.Module):
    """What a convolution gave is overwritten before anything else is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        with torch._C.DisableTorchFunction():
            SEEN[:] = [z.detach().clone()]
        z.mul_(7.0)
        return F.batch_norm(z, None, None, training=True)


def test_a_convolution_is_read_before_its_output_is_overwritten() -> None:
    model = Overwritten()
    report = audit(model, randn(SHAPE[0], 3, *SHAPE[2:]))
    assert report.trace is not None
    conv = next(op.stats for op in report.trace.ops if op.name == "conv2d")
    assert conv is not None
    assert conv.rms == pytest.approx(rms(SEEN[0]), rel=1e-5)
