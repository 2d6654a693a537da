import itertools
import os

import numpy as np
import pytest
import torch
from torch import nn

import initaudit
from initaudit.records import Finding
from initaudit.rules import diagnose
from initaudit.rules.base import Observation
from initaudit.rules.flow import Flow
from initaudit.rules.not_reproducible import RULE
from tests.rules.factories import chain, parameter, parameters_only


def found(flow: Flow) -> list[Observation]:
    return list(RULE.check(flow))


def test_all_that_changed_are_one_finding_at_the_first() -> None:
    changed = [parameter(f"{i}.weight", reproducible=i == 0) for i in (0, 2, 4)]
    (one,) = found(chain(*changed))
    assert (one.fqn, one.affected, one.observed) == ("2", ("4",), pytest.approx(2 / 3))
    assert one.message.startswith(
        "2.weight has other values when the model is built a second time with the same seed (also 4.weight): "
    )


def test_unknown_equal_and_unwritten_are_silent() -> None:
    flow = parameters_only(
        parameter("a.weight"),
        parameter("b.weight", reproducible=True),
        parameter("c.weight", reproducible=False, unwritten=True),
        parameter("d.weight", reproducible=False, max=1e38),
    )
    assert found(flow) == []


X = torch.randn(16, 8)


def audited(model: type[nn.Module]) -> list[Finding]:
    return [f for f in initaudit.audit(model, X).findings if f.code == "IA504"]


class Seeded(nn.Sequential):
    """Draws from each generator that an audit seeds."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
        self[1].weight.data = torch.tensor(np.random.normal(0, 8**-0.5, (8, 8)), dtype=torch.float32)
        nn.init.orthogonal_(self[2].weight)


class FromTheSystem(Seeded):
    def __init__(self) -> None:
        super().__init__()
        values = np.frombuffer(os.urandom(64), dtype=np.uint8).reshape(8, 8) / 128 - 1.0
        self[1].weight.data = torch.tensor(values, dtype=torch.float32)


class Counting(Seeded):
    built = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self[1].weight.data *= 0.9 ** next(self.built)


def test_what_the_seeds_reach_is_reproducible() -> None:
    assert audited(Seeded) == []


@pytest.mark.parametrize("model", [FromTheSystem, Counting])
def test_what_they_do_not_reach_is_told_at_its_layer(model: type[nn.Module]) -> None:
    (finding,) = audited(model)
    assert (finding.fqn, finding.severity.value, finding.root_cause, finding.advice) == ("1", "warning", True, None)


def test_it_hides_no_other_finding_and_no_other_hides_it() -> None:
    class Vanishing(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*[m for _ in range(16) for m in (nn.Linear(8, 8), nn.ReLU())], nn.Linear(8, 2))
            for weight in self.parameters():
                nn.init.normal_(weight, std=0.05)
            self[6].weight.data *= 1 + os.urandom(1)[0] / 256

    trace = initaudit.audit(Vanishing, X).trace
    assert trace is not None
    findings, without = diagnose(trace), diagnose(trace, ignore=["IA504"])
    assert [(f.fqn, f.root_cause) for f in findings if f.code == "IA504"] == [("6", True)]
    assert [f for f in findings if f.code != "IA504"] == list(without)
    assert [f for f in without if "6" in f.affected]  # what could have hidden it


def test_memory_that_was_never_written_is_not_told_twice() -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    codes = {f.code for f in initaudit.audit(Empty, X).findings}
    assert "IA501" in codes
    assert "IA504" not in codes
