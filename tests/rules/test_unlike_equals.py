"""The odd one out among sister blocks is named; stacks that differ on purpose are left alone."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

import initaudit
from initaudit.records import Finding


class Block(nn.Module):
    """A pre-norm feed-forward block."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 128), nn.Linear(128, 64)
        for layer in (self.up, self.down):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def stack(depth: int = 6, std: Callable[[int], float] = lambda i: 0.02) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[Block(std(i)) for i in range(depth)], nn.LayerNorm(64), nn.Linear(64, 10))


def odd(model: nn.Module) -> list[Finding]:
    return [f for f in initaudit.audit(model, torch.randn(16, 64)).findings if f.code == "IA503"]


def reset_block(model: nn.Sequential) -> None:
    model[2].up.reset_parameters()
    model[2].down.reset_parameters()


def large_gain(model: nn.Sequential) -> None:
    nn.init.constant_(model[2].norm.weight, 10.0)


def twice(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[2].up.weight.mul_(2)


def noisy_bias(model: nn.Sequential) -> None:
    nn.init.normal_(model[2].up.bias, std=0.5)


def zero_gain(model: nn.Sequential) -> None:
    nn.init.zeros_(model[2].norm.weight)


@pytest.mark.parametrize("depth", [3, 6])
@pytest.mark.parametrize(
    ("fault", "where"),
    [(reset_block, "2.up"), (large_gain, "2.norm"), (twice, "2.up"), (noisy_bias, "2.up"), (zero_gain, "2.norm")],
)
def test_the_odd_one_is_named(depth: int, fault: Callable[[nn.Sequential], None], where: str) -> None:
    model = stack(depth)
    assert not odd(model)
    fault(model)
    (finding,) = odd(model)
    assert (finding.fqn, finding.severity.value) == (where, "warning")


def test_the_cure_is_what_the_equals_have() -> None:
    model = stack()
    reset_block(model)
    (finding,) = odd(model)
    assert finding.affected == ("2.down",)
    assert finding.advice is not None
    assert finding.advice.std == pytest.approx(0.02, rel=0.05)
    exec(finding.advice.code, {"nn": nn, "m": model})
    assert model[2].up.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_of_two_the_one_that_keeps_to_the_habit_of_the_model_is_right() -> None:
    model = stack(2)
    nn.init.normal_(model[-1].weight, std=0.02)
    model[1].up.reset_parameters()
    (finding,) = odd(model)
    assert finding.fqn == "1.up"


@pytest.mark.parametrize("std", [lambda i: 0.02 / (1 + i) ** 0.5, lambda i: 0.02 if i % 2 else 0.1])
def test_scales_that_differ_on_purpose_are_left_alone(std: Callable[[int], float]) -> None:
    assert not odd(stack(8, std))


@pytest.mark.parametrize("seed", range(5))
def test_chance_in_small_parameters_is_no_fault(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.ModuleList(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 4)) for _ in range(8))

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = x + block(x)
            return x

    report = initaudit.audit(Chain(), torch.randn(16, 4))
    assert "IA503" not in {f.code for f in report.findings}


def test_a_first_layer_with_its_own_gain_is_no_odd_one() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(128, 128) for _ in range(8)]
    for i, layer in enumerate(layers):
        nn.init.normal_(layer.weight, std=(2**0.5 if i else 1.0) / 128**0.5)
        nn.init.zeros_(layer.bias)
    model = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())])
    assert not [f for f in initaudit.audit(model, torch.randn(16, 128)).findings if f.severity.value != "note"]


class Encoder(nn.Module):
    """A stem, blocks and a head, all drawn from N(0, 0.02) as transformers are."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.stem_norm = nn.Linear(64, 64), nn.LayerNorm(64)
        self.blocks = nn.ModuleList(Block(0.02) for _ in range(blocks))
        self.norm, self.pooler, self.head = nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 10)
        for layer in (self.stem, self.pooler, self.head):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem_norm(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(torch.tanh(self.pooler(self.norm(x))))


def scaled(name: str, factor: float) -> Callable[[nn.Module], None]:
    @torch.no_grad()
    def fault(model: nn.Module) -> None:
        model.get_parameter(name).mul_(factor)

    return fault


def random_bias(name: str) -> Callable[[nn.Module], None]:
    def fault(model: nn.Module) -> None:
        nn.init.normal_(model.get_parameter(name), std=2)

    return fault


def reset(*names: str) -> Callable[[nn.Module], None]:
    def fault(model: nn.Module) -> None:
        for name in names:
            model.get_submodule(name).reset_parameters()

    return fault


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (scaled("stem.weight", 60), "stem"),
        (scaled("stem.weight", 1 / 30), "stem"),
        (scaled("pooler.weight", 60), "pooler"),
        (scaled("stem_norm.weight", 10), "stem_norm"),
        (scaled("norm.weight", 10), "norm"),
        (scaled("blocks.0.norm.weight", 10), "blocks.0.norm"),
        (scaled("blocks.1.norm.weight", 0), "blocks.1.norm"),
        (scaled("blocks.1.up.weight", 2), "blocks.1.up"),
        (random_bias("blocks.0.up.bias"), "blocks.0.up"),
        (random_bias("pooler.bias"), "pooler"),
        (reset("blocks.0.up", "blocks.0.down"), "blocks.0.up"),
    ],
)
def test_what_has_few_sisters_or_none_is_compared_with_the_whole_model(
    fault: Callable[[nn.Module], None], where: str
) -> None:
    model = Encoder()
    assert not odd(model)
    fault(model)
    found = odd(model)
    assert [(f.fqn, f.severity.value) for f in found][:1] == [(where, found[0].severity.value)]
    assert {f.severity.value for f in found} <= {"warning", "error"}


def test_a_small_head_is_at_most_a_note() -> None:
    model = Encoder()
    scaled("head.weight", 1 / 30)(model)
    assert {f.severity.value for f in odd(model)} <= {"note"}


def test_one_layer_that_keeps_torchs_default_is_no_finding() -> None:
    model = Encoder(1)
    model.stem.reset_parameters()
    assert not odd(model)


@pytest.mark.parametrize("fault", [None, 3])
def test_sisters_of_several_widths_share_a_rule_of_the_fan(fault: int | None) -> None:
    torch.manual_seed(0)
    widths = [64, 64, 96, 128, 192, 256]

    class Stage(nn.Module):
        def __init__(self, narrow: int, wide: int) -> None:
            super().__init__()
            self.conv, self.norm = nn.Linear(narrow, wide), nn.LayerNorm(wide)
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.norm(self.conv(x)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList(Stage(a, b) for a, b in itertools.pairwise(widths))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for stage in self.stages:
                x = stage(x)
            return x

    model = Net()
    if fault is not None:
        scaled(f"stages.{fault}.conv.weight", 2)(model)
    assert [f.fqn for f in odd(model)] == ([] if fault is None else [f"stages.{fault}.conv"])


def test_a_gain_of_zero_that_empties_the_output_is_the_root_of_what_follows() -> None:
    model = Encoder()
    nn.init.zeros_(model.norm.weight)
    findings = initaudit.audit(model, torch.randn(16, 64)).findings
    assert (findings[0].fqn, findings[0].root_cause) == ("norm", True)
    assert findings[0].severity.value != "note"
    assert not [f for f in findings[1:] if f.root_cause and f.severity.value == "error"]


class Sigmoids(nn.Module):
    """Layers whose biases take off the mean of the sigmoid before them, but for the first, which has none before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(256, 256) for _ in range(8))
        with torch.no_grad():
            for i, layer in enumerate(self.layers):
                nn.init.normal_(layer.weight, std=(4.72 if i else 1.0) / 16)
                layer.bias.copy_(-0.5 * layer.weight.sum(1) if i else torch.zeros(256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return x


def odd_of(model: nn.Module) -> list[str]:
    return [f.fqn for f in initaudit.audit(model, torch.randn(16, 256)).findings if f.code == "IA503"]


def test_a_first_layer_may_differ_since_its_input_has_passed_no_activation() -> None:
    assert not odd_of(Sigmoids())


@torch.no_grad()
def leave_at_default(layer: nn.Linear) -> None:
    layer.reset_parameters()


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        (0, leave_at_default),
        (0, lambda layer: layer.weight.data.mul_(10)),
        (0, lambda layer: layer.bias.data.normal_(0, 0.5)),
        (4, lambda layer: layer.bias.data.mul_(0.3)),
        (4, lambda layer: layer.weight.data.mul_(0.05)),
    ],
)
def test_what_rules_do_not_allow_is_odd_in_a_first_layer_too(place: int, fault: Callable[[nn.Linear], object]) -> None:
    model = Sigmoids()
    fault(model.layers[place])
    assert odd_of(model) == [f"layers.{place}"]


class Blocks(nn.Module):
    """Six linear layers in a row, each with a bias of its own."""

    def __init__(self, bias: Callable[[int], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(6))
        for i, block in enumerate(self.blocks):
            nn.init.kaiming_normal_(block.weight, nonlinearity="linear")
            block.register_parameter("bias", nn.Parameter(bias(i)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize(
    ("usual", "scheme", "mean", "std"),
    [
        (lambda i: torch.zeros(64), "zeros_", 0.0, 0.0),
        (lambda i: torch.full((64,), -0.2), "constant_", -0.2, 0.0),
        (lambda i: 0.2 * torch.randn(64), "normal_", 0.0, 0.2),
        (lambda i: torch.empty(64).uniform_(-0.3, 0.3), "uniform_", 0.0, 0.3 / 3**0.5),
        (lambda i: 1 + 0.05 * torch.randn(64), "normal_", 1.0, 0.05),
    ],
)
def test_the_odd_one_is_given_the_law_of_its_equals(
    usual: Callable[[int], torch.Tensor], scheme: str, mean: float, std: float
) -> None:
    model = Blocks(lambda i: usual(i) if i != 3 else 4.0 * torch.randn(64))
    (finding,) = odd(model)
    assert finding.advice is not None
    assert finding.advice.scheme == scheme
    exec(finding.advice.code, {"nn": nn, "m": model})
    bias = model.blocks[3].bias.detach()
    assert bias.mean().item() == pytest.approx(mean, abs=0.1)
    assert bias.std().item() == pytest.approx(std, rel=0.4, abs=1e-6)
    assert not odd(model)


class Waves(nn.Module):
    """Layers before sines, the first of which has phases of many turns (FINER, arXiv:2312.02434)."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third, self.head = (nn.Linear(a, 64) for a in (2, 64, 64, 64))
        nn.init.uniform_(self.first.bias, -5, 5)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.second, self.third):
            x = self.function(layer(x))
        return self.head(x)


@pytest.mark.parametrize(
    ("function", "advised"),
    [(lambda x: torch.sin(30 * (x.detach().abs() + 1) * x), []), (torch.tanh, ["nn.init.zeros_"])],
    ids=["waves", "tanh"],
)
def test_a_phase_is_no_bias_that_drowns_the_signal(
    function: Callable[[torch.Tensor], torch.Tensor], advised: list[str]
) -> None:
    found = [f for f in initaudit.audit(Waves(function), torch.rand(256, 2) * 2 - 1).findings if f.code == "IA503"]
    assert [f.advice.code.partition("(")[0] for f in found if f.advice] == advised


class Codebook(nn.Module):
    """A table that softmax weights choose from, or that logits multiply."""

    def __init__(self, *, softly: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.Sequential(nn.Linear(48, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))
        self.table = nn.Embedding(64, 32)
        self.decode = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 48))
        self.softly = softly

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encode(x)
        return self.decode((x.softmax(-1) if self.softly else x) @ self.table.weight)


@pytest.mark.parametrize("softly", [True, False])
def test_a_table_is_judged_by_its_use(softly: bool) -> None:
    report = initaudit.audit(Codebook(softly=softly), torch.randn(64, 48))
    (table,) = (layer for layer in report.layers if layer.fqn == "table")
    assert table.kind == "matmul"
    found = [f for f in report.findings if f.code == "IA503"]
    assert [f.fqn for f in found] == ([] if softly else ["table"])
    for finding in found:
        assert finding.advice is not None
        assert finding.advice.std == pytest.approx(64**-0.5)


@pytest.mark.parametrize("width", [64, 128], ids=["most weights have one std", "weights have no std in common"])
def test_all_findings_on_a_layer_advise_one_cure(width: int) -> None:
    torch.manual_seed(0)
    sizes = [64, width, 64, width, 10]
    model = nn.Sequential(*[p for a, b in itertools.pairwise(sizes) for p in (nn.Linear(a, b), nn.ReLU())][:-1])
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    nn.init.normal_(model[-1].weight, std=10)
    found = [f for f in initaudit.audit(model, torch.randn(64, 64)).findings if f.fqn == "6" and f.advice]
    assert "IA503" in {f.code for f in found}
    assert len({f.code for f in found}) > 1
    assert len({f.advice.code for f in found if f.advice}) == 1


class Coupled(nn.Module):
    """Blocks of two layers each, the last of which starts small, as those of nflows do; ``extra`` more in between."""

    def __init__(self, blocks: int, extra: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.ModuleList(nn.Linear(64, 64) for _ in range(2 + extra)) for _ in range(blocks))
        for block in self.blocks:
            nn.init.uniform_(block[-1].weight, -1e-3, 1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            y = x
            for layer in block:
                y = layer(torch.relu(y))
            x = x + y
        return x


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_places_in_a_block_are_roles_where_all_blocks_agree(extra: int) -> None:
    model = Coupled(8, extra)
    assert not odd(model)
    nn.init.uniform_(model.blocks[3][0].weight, -0.5, 0.5)
    assert [f.fqn for f in odd(model)] == ["blocks.3.0"]
