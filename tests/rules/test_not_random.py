import pytest
import torch
from torch import nn

import initaudit
from initaudit.records import Finding
from initaudit.rules.base import Observation
from initaudit.rules.flow import Flow
from initaudit.rules.not_random import RULE, looks_drawn
from tests.rules.factories import chain, constant, parameter, parameters_only


def found(flow: Flow) -> list[Observation]:
    return list(RULE.check(flow))


def test_the_fixed_ones_among_others_are_a_warning_at_the_first() -> None:
    weights = [parameter(f"{i}.weight", follows_seed=i == 0, init="kaiming_normal") for i in (0, 2, 4)]
    (one,) = found(chain(*weights))
    assert (one.fqn, one.affected, one.severity, one.observed) == ("2", ("4",), None, pytest.approx(2 / 3))
    assert one.message.startswith("2.weight looks drawn (kaiming_normal) and is the same with another seed (also 4.w")


def test_a_model_that_follows_no_seed_is_one_note() -> None:
    (one,) = found(parameters_only(*(parameter(f"{n}.weight", follows_seed=False) for n in "abc")))
    assert one.severity is not None
    assert (one.fqn, one.severity.value) == ("", "note")


def test_loaded_weights_are_silent() -> None:
    head = parameter("head.weight", follows_seed=True)
    loaded = [parameter(f"{i}.weight", follows_seed=False, init="unknown") for i in range(3)]
    by_chance = parameter("3.weight", follows_seed=False, init="normal(std=0.02)")
    assert found(parameters_only(head, *loaded, by_chance)) == []
    assert len(found(parameters_only(head, *loaded[:1], *[by_chance] * 3))) == 1


def test_what_needs_no_draw_is_silent() -> None:
    flow = parameters_only(
        parameter("a.weight", follows_seed=True),
        parameter("unknown.weight"),
        parameter("frozen.weight", follows_seed=False, requires_grad=False),
        parameter("vector", (64,), follows_seed=False),
        parameter("empty.weight", follows_seed=False, unwritten=True),
        constant("zeros.weight", follows_seed=False),
    )
    assert found(flow) == []


@pytest.mark.parametrize(
    ("init", "kurtosis", "expected"),
    [
        ("kaiming_uniform(a=sqrt(5))", 1.8, True),
        ("normal(std=0.02), 1 zero row", 3.0, True),
        ("trunc_normal(std=0.02)", 2.4, True),
        ("uniform(-0.1, 0.1)", 1.8, True),
        ("sparse(sparsity=0.9, std=0.01)", 3.0, True),
        ("orthogonal", 3.0, True),
        ("orthogonal", 1.5, False),  # cosines
        ("normal(mean=0.01, std=0.02)", 3.0, False),
        ("uniform(0, 1)", 1.8, False),
        ("eye", 60.0, False),
        ("constant(0.1)", None, False),
        ("unknown", 5.0, False),
    ],
)
def test_what_looks_drawn(init: str, kurtosis: float | None, expected: bool) -> None:
    assert looks_drawn(parameter("w", init=init, kurtosis=kurtosis)) is expected


X = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def audited(model: object) -> list[Finding]:
    return [f for f in initaudit.audit(model, X).findings if f.code == "IA506"]  # type: ignore[arg-type]


def test_a_healthy_model_and_an_instance_are_silent() -> None:
    assert audited(Net) == []
    assert audited(Net()) == []


def test_a_generator_with_a_seed_of_its_own() -> None:
    class Fixed(Net):
        def __init__(self) -> None:
            super().__init__()
            nn.init.kaiming_normal_(self[2].weight, generator=torch.Generator().manual_seed(1))

    (finding,) = audited(Fixed)
    assert (finding.fqn, finding.severity.value, finding.affected) == ("2", "warning", ())


def test_a_seed_set_in_the_middle_fixes_all_that_follows() -> None:
    class Fixed(Net):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self[2].reset_parameters()
            self[4].reset_parameters()

    (finding,) = audited(Fixed)
    assert (finding.fqn, finding.affected) == ("2", ("4",))


def test_a_factory_that_seeds_itself_is_a_note() -> None:
    def build_model() -> nn.Module:
        torch.manual_seed(0)
        return Net()

    (finding,) = audited(build_model)
    assert (finding.fqn, finding.severity.value) == ("", "note")


def test_trained_weights_under_a_fresh_head_are_silent() -> None:
    torch.manual_seed(0)
    trained = Net()
    optimizer = torch.optim.Adam(trained.parameters(), 1e-2)
    labels = torch.randint(10, (32,))
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(trained(X), labels).backward()
        optimizer.step()

    def build_model() -> nn.Module:
        model = Net()
        model.load_state_dict(trained.state_dict())
        model[4] = nn.Linear(64, 3)
        return model

    assert audited(build_model) == []


def test_matrices_of_cosines_are_no_draw() -> None:
    class Dct(Net):
        def __init__(self) -> None:
            super().__init__()
            n = torch.arange(64.0)
            basis = torch.cos(torch.pi / 64 * (n[None] + 0.5) * n[:, None]) * (2 / 64) ** 0.5
            basis[0] /= 2**0.5
            self[2].weight.data = basis

    assert audited(Dct) == []
