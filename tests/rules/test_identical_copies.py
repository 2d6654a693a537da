import copy

import pytest
import torch
from torch import Tensor, nn

import initaudit
from initaudit.records import Finding, Parameter
from initaudit.rules.base import Observation
from initaudit.rules.flow import Flow
from initaudit.rules.identical_copies import RULE
from tests.rules.factories import parameter, parameters_only


def found(flow: Flow) -> list[Observation]:
    return list(RULE.check(flow))


def pair(first: str = "h.0.up.weight", second: str = "h.1.up.weight", **fields: object) -> list[Parameter]:
    return [parameter(first), parameter(second, **{"copy_of": first, "grad_rms": 0.2, **fields})]


def test_one_finding_for_each_stack_at_the_first_copy() -> None:
    encoder = [*pair("enc.0.up.weight", "enc.1.up.weight"), *pair("enc.0.down.weight", "enc.1.down.weight")[::-1]]
    third = parameter("enc.2.up.weight", copy_of="enc.0.up.weight", grad_rms=0.3)
    one, other = found(parameters_only(*encoder, third, *pair("dec.0.up.weight", "dec.1.up.weight")))
    assert (one.fqn, one.affected, one.observed) == ("enc.1.up", ("enc.1.down", "enc.2.up"), 2)
    assert one.message.startswith(
        "enc.1, enc.2 hold the same random weights as enc.0: the layers start as one function. nn.TransformerEncoder, "
    )
    assert (other.fqn, other.observed) == ("dec.1.up", 1)
    assert other.message.startswith("dec.1 holds the same random weights as dec.0")


def test_the_same_gradient_makes_it_an_error() -> None:
    (one,) = found(parameters_only(*pair(grad_rms=0.1)))
    assert one.severity is not None
    assert one.severity.value == "error"
    assert "they get the same gradient and stay copies" in one.message
    (one,) = found(parameters_only(*pair(grad_rms=0.1001)))
    assert one.severity is not None
    assert one.severity.value == "warning"


@pytest.mark.parametrize(
    "parameters",
    [
        pair(copy_of=None),
        pair(requires_grad=False),
        pair(grad_rms=None),
        pair(grad_rms=0.0),
        pair(init="unknown"),
        pair(init="eye"),
        pair("online.0.weight", "target.0.weight"),  # two towers
        pair("h.0.weight", "h.0.up.weight"),
        pair(copy_of="elsewhere"),
    ],
)
def test_what_is_no_copy_or_is_meant(parameters: list[Parameter]) -> None:
    assert found(parameters_only(*parameters)) == []


X = torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(0))


def audited(model: object, inputs: Tensor = X) -> list[Finding]:
    return [f for f in initaudit.audit(model, inputs).findings if f.code == "IA505"]  # type: ignore[arg-type]


def encoder(depth: int = 3) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


def test_the_encoder_of_torch_copies_its_layer_and_the_remedy_helps() -> None:
    model = encoder()
    (finding,) = audited(model)
    assert (finding.fqn, finding.severity.value) == ("layers.1.self_attn", "warning")
    assert finding.message.startswith("layers.1, layers.2 hold the same random weights as layers.0")
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.xavier_uniform_(weight)
    assert audited(model) == []


def test_the_transformer_of_torch_draws_each_layer() -> None:
    class Seq2Seq(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x, x)

    assert audited(Seq2Seq) == []


class Branches(nn.Module):
    """Parallel branches whose mean is returned."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.branches]).mean(0)


def test_copies_side_by_side_that_stay_copies_are_an_error() -> None:
    first = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    (finding,) = audited(Branches(first, copy.deepcopy(first)))
    assert (finding.fqn, finding.severity.value, finding.affected) == ("branches.1.0", "error", ("branches.1.2",))


def test_a_seed_in_the_constructor_of_a_block_is_found() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(torch.relu(self.up(self.norm(x))))

    (finding,) = audited(lambda: nn.Sequential(*[Block() for _ in range(3)]))
    assert (finding.fqn, finding.affected) == ("1.up", ("1.down", "2.up", "2.down"))


def test_tied_layers_teachers_and_constants_are_silent() -> None:
    shared = nn.Linear(32, 32)
    assert audited(Branches(shared, shared)) == []

    class WithTeacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            student = nn.Linear(32, 32)
            self.nets = nn.ModuleList([student, copy.deepcopy(student)])

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                target = self.nets[1](x)
            return self.nets[0](x) - target

    assert audited(WithTeacher) == []
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    for layer in model:
        nn.init.eye_(layer.weight)
    assert audited(model) == []
