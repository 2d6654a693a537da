"""What authors of vision and graph libraries do on purpose, written small: no finding, while the slip beside it is one.

The habits are those of EfficientNet, MobileOne, RegNet-Z, ConViT, RDNet, NF-ResNet, CoAtNet, DenseNet and ConvMixer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initaudit
from initaudit import Report
from tests.rules.nets import batch, found


def audit(model: nn.Module, *shape: int) -> Report:
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)) if shape else batch()
    return initaudit.audit(model, inputs)


def codes(report: Report) -> set[str]:
    return {f.code for f in report.findings if f.severity.value != "note"}


class Separable(nn.Module):
    """A depthwise and a pointwise convolution, closed at zero where the signal can pass by."""

    def __init__(self, narrow: int, wide: int, *, close: bool = False) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(narrow, narrow, 3, padding=1, groups=narrow, bias=False)
        self.pointwise = nn.Conv2d(narrow, wide, 1, bias=False)
        self.inner, self.norm = nn.BatchNorm2d(narrow), nn.BatchNorm2d(wide)
        self.passes = narrow == wide
        for layer in (self.depthwise, self.pointwise):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        if close and self.passes:
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.pointwise(F.relu(self.inner(self.depthwise(x)))))
        return x + y if self.passes else F.relu(y)


def images(*blocks: nn.Module, channels: int) -> nn.Sequential:
    stem, head = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.Linear(channels, 10)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]
    return nn.Sequential(stem, nn.BatchNorm2d(16), nn.ReLU(), nn.Sequential(*blocks), *pooled)


class Named(nn.Module):
    """Blocks of names of their own, so that none has sisters."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.stem.weight, mode="fan_out")
        for name, narrow, wide in zip("abcdef", widths, widths[1:], strict=False):
            self.add_module(name, Separable(narrow, wide))
        self.names = "abcdef"[: len(widths) - 1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for name in self.names:
            x = self.get_submodule(name)(x)
        return x


def test_a_depthwise_kernel_drawn_with_the_fan_out_of_torch() -> None:
    torch.manual_seed(0)
    model = Named([16, 32, 64, 160, 384])
    assert "IA503" not in codes(audit(model, 8, 3, 16, 16))
    with torch.no_grad():
        model.d.depthwise.weight.div_(12)
    assert found(audit(model, 8, 3, 16, 16), "IA503").fqn == "d.depthwise"


class Kernel(nn.Module):
    """A convolution of either kind under one name (Vasu et al. 2023)."""

    def __init__(self, narrow: int, wide: int, size: int, stride: int = 1) -> None:
        super().__init__()
        groups = narrow if size > 1 else 1
        self.conv = nn.Conv2d(narrow, wide, size, stride, size // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(wide)
        nn.init.normal_(self.conv.weight, std=math.sqrt(2 / (wide * size**2 / groups)))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


def test_the_fan_out_of_a_group_knows_nothing_of_the_stride() -> None:
    torch.manual_seed(0)
    widths = [16, 48, 64, 96, 128, 160]
    blocks = [[Kernel(a, a, 3, 1 + i % 2), Kernel(a, b, 1)] for i, (a, b) in enumerate(itertools.pairwise(widths))]
    model = images(*itertools.chain(*blocks), channels=160)
    assert not codes(audit(model, 8, 3, 16, 16))
    with torch.no_grad():
        model[3][4].conv.weight.div_(2)
    assert found(audit(model, 8, 3, 16, 16), "IA503").fqn == "3.4.conv"


@pytest.mark.parametrize("blocks", [4, 2])
def test_blocks_that_start_closed_where_there_is_a_way_around(blocks: int) -> None:
    torch.manual_seed(0)
    stages = [Separable(16, 32, close=True), *(Separable(32, 32, close=True) for _ in range(blocks - 1))]
    model = images(*stages, channels=32)
    assert not codes(audit(model, 8, 3, 16, 16))


def test_a_gain_of_one_among_closed_blocks_is_a_slip() -> None:
    torch.manual_seed(0)
    model = images(*(Separable(16, 16, close=True) for _ in range(5)), channels=16)
    nn.init.ones_(model[3][2].norm.weight)
    assert found(audit(model, 8, 3, 16, 16), "IA503").fqn == "3.2.norm"


def test_a_drawn_bias_among_zeros_is_a_slip_without_a_way_around_as_well() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(64), nn.Linear(64, 64)
            nn.init.zeros_(self.fc.bias)

        def forward(self, x: Tensor) -> Tensor:
            return F.gelu(self.fc(self.norm(x)))

    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(6)))
    nn.init.normal_(model[2].fc.bias, std=0.5)
    assert found(audit(model, 16, 64), "IA503").fqn == "2.fc"


class Mixer(nn.Module):
    """A feed-forward block; ``convolves`` first, and is then left as torch initializes convolutions."""

    def __init__(self, width: int, *, convolves: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width) if convolves else None
        self.gate = None if convolves else nn.Parameter(torch.ones(width, 1, 1))
        self.up, self.down = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)
        for layer in () if convolves else (self.up, self.down):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        y = self.mix(y) if self.mix is not None else y * self.gate
        result: Tensor = x + self.down(F.gelu(self.up(y)))
        return result


def test_blocks_of_other_parts_are_no_sisters() -> None:
    torch.manual_seed(0)
    blocks = [Mixer(16, convolves=i < 3) for i in range(8)]
    model = images(*blocks, channels=16)
    assert "IA503" not in codes(audit(model, 8, 3, 8, 8))
    for layer in (model[3][5].up, model[3][5].down):
        layer.reset_parameters()
    assert found(audit(model, 8, 3, 8, 8), "IA503").fqn.startswith("3.5.")


def test_a_convolution_and_a_linear_layer_of_one_name_are_no_sisters() -> None:
    class Block(nn.Module):
        def __init__(self, *, flat: bool) -> None:
            super().__init__()
            self.norm, self.flat = nn.LayerNorm(32), flat
            self.fc = nn.Linear(32, 32) if flat else nn.Conv1d(32, 32, 1)
            if flat:
                nn.init.normal_(self.fc.weight, std=0.05)
                nn.init.zeros_(self.fc.bias)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return x + F.gelu(self.fc(y) if self.flat else self.fc(y.mT).mT)

    torch.manual_seed(0)
    model = nn.Sequential(*(Block(flat=i == 3) for i in range(7)))
    assert "IA503" not in codes(audit(model, 8, 12, 32))


def test_what_torchs_default_gives_layers_of_one_width_is_nobodys_habit() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(64)
            self.q, self.k, self.v, self.out = (nn.Linear(64, 64) for _ in range(4))
            self.one, self.two = (nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            x = x + self.out(F.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y)))
            result: Tensor = x + self.one(x) + self.two(x)
            return result

    torch.manual_seed(0)
    assert "IA503" not in codes(audit(nn.Sequential(*(Block() for _ in range(3))), 4, 12, 64))


def test_a_table_that_every_layer_starts_with_is_no_copy_of_a_draw() -> None:
    class Positional(nn.Module):
        """Attention that starts as a convolution (d'Ascoli et al. 2021): one offset for each head."""

        def __init__(self) -> None:
            super().__init__()
            self.project, self.mix = nn.Linear(3, 9), nn.Linear(9, 9)
            offsets = torch.tensor([(2.0 * (i % 3 - 1), 2.0 * (i // 3 - 1), -1.0) for i in range(9)])
            with torch.no_grad():
                self.project.weight.copy_(offsets)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = x + self.mix(F.softmax(self.project(x[..., :3]), -1))
            return result

    torch.manual_seed(0)
    assert "IA505" not in codes(audit(nn.Sequential(*(Positional() for _ in range(4))), 32, 9))


def test_rows_that_sum_to_zero_take_the_mean_of_their_input_away() -> None:
    class Standardized(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            centred = self.weight - self.weight.mean(1, keepdim=True)
            return F.linear(x, centred / centred.std(1, keepdim=True) / math.sqrt(self.in_features), self.bias)

    torch.manual_seed(0)
    model = nn.Sequential(Standardized(128, 256), nn.ReLU(), nn.Linear(256, 10))
    inputs = 1 + 0.3 * torch.rand(64, 128)
    assert "IA310" not in {f.code for f in initaudit.audit(model, inputs).findings}


class Sines(nn.Module):
    """Layers whose sines have a frequency (Sitzmann et al. 2020), ``first`` that of the first one."""

    def __init__(self, first: float, others: float = 1.0, gain: float = 1.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 256), *(nn.Linear(256, 256) for _ in range(5)), nn.Linear(256, 3)])
        self.frequencies = [first, *[others] * 5]
        for layer in self.layers[1:]:
            nn.init.uniform_(layer.weight, -(bound := gain * math.sqrt(6 / 256) / others), bound)

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer, frequency in zip(hidden, self.frequencies, strict=True):
            x = torch.sin(frequency * layer(x))
        result: Tensor = last(x)
        return result


def test_a_frequency_is_no_growth_of_the_gradient() -> None:
    torch.manual_seed(0)
    inputs = 2 * torch.rand(256, 2, generator=torch.Generator().manual_seed(1)) - 1
    assert not codes(initaudit.audit(Sines(30.0), inputs))
    assert "IA202" not in codes(initaudit.audit(Sines(30.0, 30.0), inputs))
    assert "IA202" in codes(initaudit.audit(Sines(30.0, gain=4.0), inputs))


def test_a_normalized_weight_has_the_scale_of_its_normalization() -> None:
    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(512, 512), nn.LayerNorm(512))))
            self.prototypes = nn.Parameter(torch.randn(32, 512))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.normalize(self.body(x), dim=-1), F.normalize(self.prototypes, dim=-1) * 512**0.5)

    torch.manual_seed(0)
    assert "IA503" not in codes(audit(Prototypes(), 32, 512))


class Squeeze(nn.Module):
    """A channel gate (Hu et al. 2018) whose few units may all be dead by chance."""

    def __init__(self, *, alone: bool = False) -> None:
        super().__init__()
        self.fc1, self.fc2, self.alone = nn.Linear(32, 4), nn.Linear(4, 32), alone
        with torch.no_grad():
            self.fc1.weight.copy_(-self.fc1.weight.abs())

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.fc2(F.relu(self.fc1(x.mean((2, 3)))))
        return gate[..., None, None].expand(*x.shape) if self.alone else x * gate.sigmoid()[..., None, None]


@pytest.mark.parametrize(("alone", "severity"), [(False, "warning"), (True, "error")])
def test_few_dead_units_beside_the_signal(alone: bool, severity: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), Squeeze(alone=alone), nn.Flatten(), nn.Linear(32 * 36, 4)
    )
    finding = found(audit(model, 16, 3, 8, 8), "IA103")
    assert (finding.fqn, finding.severity.value) == ("3.fc1", severity)


class Dense(nn.Module):
    """Every layer reads all that came before (Huang et al. 2017); ``scale`` is learned (LayerScale)."""

    def __init__(self, depth: int, growth: int = 32, scale: float | None = None) -> None:
        super().__init__()
        widths = [32 + growth * i for i in range(depth)]
        self.norms = nn.ModuleList(nn.BatchNorm1d(w) for w in widths)
        self.wide = nn.ModuleList(nn.Linear(w, 2 * growth, bias=False) for w in widths)
        self.inner = nn.ModuleList(nn.BatchNorm1d(2 * growth) for _ in widths)
        self.narrow = nn.ModuleList(nn.Linear(2 * growth, growth, bias=False) for _ in widths)
        for layer in (*self.wide, *self.narrow):
            nn.init.normal_(layer.weight, std=3 / math.sqrt(layer.in_features))  # what is new is larger than what was
        self.scales = nn.ParameterList(nn.Parameter(torch.full((growth,), scale)) for _ in widths if scale)
        self.head = nn.Linear(32 + growth * depth, 10)

    def forward(self, x: Tensor) -> Tensor:
        for i, (norm, wide, inner, narrow) in enumerate(
            zip(self.norms, self.wide, self.inner, self.narrow, strict=True)
        ):
            y = narrow(F.relu(inner(wide(F.relu(norm(x))))))
            x = torch.cat([x, y * self.scales[i] if len(self.scales) else y], 1)
        result: Tensor = self.head(x)
        return result


def test_gradients_of_a_dense_net_do_not_stack_up() -> None:
    torch.manual_seed(0)
    model = Dense(60)
    assert "IA202" not in codes(audit(model, 64, 32))
    # The figure that counts is that of the whole way.
    grads = {p.fqn: p.grad_rms for p in audit(model, 64, 32).trace.parameters}
    assert (grads["wide.0.weight"] or 0) < 100 * (grads["wide.59.weight"] or 0)


def test_a_branch_with_a_small_learned_factor_is_not_dead() -> None:
    torch.manual_seed(0)
    assert "IA111" not in codes(audit(Dense(4, scale=1e-6), 64, 32))


def test_layers_that_alternate_are_counted_as_they_stack() -> None:
    class Block(nn.Module):
        """A branch with a way around it, and a layer without (Trockman & Kolter 2022)."""

        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.BatchNorm1d(128))
            self.layer = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.BatchNorm1d(128))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layer(x + self.branch(x))
            return result

    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(60)), nn.Linear(128, 10))
    for i, block in enumerate(model[:60]):
        nn.init.constant_(block.branch[2].weight, 1.05 if i % 2 else 0.95)  # the way leads through every other one
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        nn.init.kaiming_normal_(layer.weight)
    report = audit(model, 64, 128)
    observed = found(report, "IA202").observed
    layers = {layer.fqn: layer.calls[0] for layer in report.layers}
    sizes = [
        c.gradient.rms * math.sqrt(c.gradient.count) * c.pre_activation.std
        for c in (layers["0.layer.0"], layers["59.layer.0"])
        if c.gradient and c.pre_activation
    ]
    assert observed is not None
    assert math.log(observed) == pytest.approx(math.log(sizes[0] / sizes[1]), rel=0.05)
