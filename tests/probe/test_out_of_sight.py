"""What is read in unusual places is seen all the same, and what cannot be seen is said."""

import pytest
import torch
from torch import Tensor, nn

import initaudit
from initaudit.errors import AuditError
from tests.probe.probing import Call, audit, by_fqn, randn


def test_a_distribution_is_an_output() -> None:
    def act(m: Call, x: Tensor) -> object:
        return torch.distributions.Normal(m.mean(x), 1.0), m.value(x)

    report = audit(Call(act, mean=nn.Linear(16, 4), value=nn.Linear(16, 1)), randn(8, 16))
    assert all(layer.calls[0].gradient is not None for layer in report.layers)
    assert not report.findings


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_recurrence_that_is_read_through_its_last_state_has_a_gradient(kind: type[nn.RNNBase]) -> None:
    def classify(m: Call, tokens: Tensor) -> Tensor:
        _, state = m.rnn(m.table(tokens))
        return m.head((state if isinstance(state, Tensor) else state[0])[-1])

    model = Call(classify, table=nn.Embedding(50, 16), rnn=kind(16, 16, batch_first=True), head=nn.Linear(16, 4))
    layers = by_fqn(audit(model, torch.randint(50, (8, 12))))
    for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0"):
        gradient = layers[name].calls[0].gradient
        assert gradient is not None
        assert gradient.rms > 0


def test_what_runs_under_vmap_is_listed_as_not_judged() -> None:
    report = audit(Call(lambda m, x: torch.vmap(lambda v: m.a(v).relu())(x), a=nn.Linear(16, 16)), randn(8, 16))
    assert report.trace is not None
    assert [part.fqn for part in report.trace.unjudged] == ["a"]
    assert [finding.code for finding in report.findings] == ["IA902"]


def test_complex_weights_are_listed_as_not_judged() -> None:
    weight = nn.Parameter(torch.randn(16, 16, dtype=torch.cfloat))
    model = Call(lambda m, x: (x.to(torch.cfloat) @ m.w).abs())
    model.register_parameter("w", weight)
    report = audit(model, randn(8, 16))
    assert report.trace is not None
    assert [part.fqn for part in report.trace.unjudged] == ["w"]


def test_nested_state_is_put_back() -> None:
    cache = {"h": [torch.zeros(2)]}

    def remember(m: Call, x: Tensor) -> Tensor:
        m.cache["h"][0].add_(1)
        m.cache["h"].append(x)
        return m.a(x)

    model = Call(remember, a=nn.Linear(16, 4))
    model.cache = cache
    audit(model, randn(8, 16))
    assert len(cache["h"]) == 1
    assert not cache["h"][0].any()


def test_a_model_that_returns_nothing_is_told_at_once() -> None:
    with pytest.raises(AuditError, match="returned no tensor, but NoneType") as caught:
        initaudit.audit(Call(lambda m, x: None, a=nn.Linear(16, 4)))
    assert caught.value.stage == "forward"


def test_one_sample_for_batch_norm_is_too_few() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16)).eval()
    with pytest.raises(AuditError, match="give at least two samples"):
        initaudit.audit(model, randn(1, 16))


def test_a_factory_on_the_meta_device_is_told_so() -> None:
    def build() -> nn.Module:
        with torch.device("meta"):
            return nn.Linear(4, 4)

    with pytest.raises(AuditError, match="meta device"):
        initaudit.audit(build, device="cpu")
