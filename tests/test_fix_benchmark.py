"""What benchmarks/fix.py compares: AutoInit against its formulas, and what counts as a network that got worse."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def as_run_from_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def module(name: str) -> Any:
    return importlib.import_module(name)


def network(family: str = "mlp", activation: str = "relu", depth: int = 8, scheme: str = "default") -> Any:
    return module("_networks").Network(family, activation, depth, scheme)


@pytest.fixture
def data() -> Any:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(512, 64, generator=generator)
    return module("_training").Data(features, torch.arange(512) % 10, 0.1)


def factor(weights: list[torch.Tensor]) -> float:
    """Var[w] * fan_in, over all the weights."""
    return sum(float(w.detach().square().mean()) * w[0].numel() for w in weights) / len(weights)


# 1/E[phi(z)^2] for z ~ N(0, 1): 2 for ReLU (He et al. 2015), the others by integration with mpmath.
@pytest.mark.parametrize(("activation", "inverse"), [("relu", 2.0), ("tanh", 1 / 0.394294), ("sigmoid", 1 / 0.293379)])
def test_autoinit_follows_the_second_moment_of_the_activation(activation: str, inverse: float, data: Any) -> None:
    model = module("_methods").auto_init(network(activation=activation), data)
    first, *hidden = [layer.weight for layer in model.layers]
    assert factor([first]) == pytest.approx(1, rel=0.05)
    assert factor(hidden) == pytest.approx(inverse, rel=0.03)
    assert all(not layer.bias.any() for layer in model.layers)


def test_activations_map_mean_and_variance() -> None:
    autoinit = module("_autoinit")
    relu = autoinit.activate(torch.relu, autoinit.Signal())
    assert relu.mean == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-5)
    assert relu.variance == pytest.approx(0.5 - 1 / (2 * math.pi), abs=1e-5)
    line = autoinit.activate(lambda x: 3 * x - 1, autoinit.Signal(2.0, 4.0))
    assert (line.mean, line.variance) == (pytest.approx(5), pytest.approx(36))
    assert autoinit.activate(torch.tanh, autoinit.Signal()).square == pytest.approx(0.394294, abs=1e-6)


def test_weights_are_truncated_at_two_and_keep_their_variance() -> None:
    weight = torch.empty(400, 400)
    module("_autoinit").draw(weight, 0.25)
    assert float(weight.std()) == pytest.approx(0.5, rel=0.01)
    assert weight.abs().max() <= 2 * 0.5 / 0.8796 + 1e-6


def test_branches_add_up_and_norms_start_over(data: Any) -> None:
    auto_init = module("_methods").auto_init
    blocks = 9
    bare = auto_init(network("residual", depth=2 + 2 * blocks), data)
    assert factor([bare.first[-1].weight]) == pytest.approx(1 / blocks, rel=0.1)  # the stem and eight blocks before it
    assert factor([bare.head.weight]) == pytest.approx(1 / (1 + blocks), rel=0.2)
    normed = auto_init(network("residual+ln", depth=2 + 2 * blocks), data)
    assert factor([layer.weight for layer in normed.first]) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("family", ["mlp+ln", "mlp+bn", "residual+bn", "cnn+bn", "transformer", "transformer-post"])
def test_autoinit_gives_every_normalized_family_outputs_of_unit_variance(family: str, data: Any) -> None:
    model = module("_methods").auto_init(network(family, "gelu", 3 if "former" in family else 8), data)
    stds: list[float] = []
    layers = module("_networks").Weights(model, "gelu").layers[:-1]  # tokens are not independent, as the head's is told
    for layer in layers:
        layer.register_forward_hook(lambda module, args, output: stds.append(float(output.detach().std())))
    model(data.features)
    assert len(stds) == len(layers)
    assert (min(stds), max(stds)) == (pytest.approx(1, abs=0.4), pytest.approx(1, abs=1))


@pytest.mark.parametrize("family", ["rnn", "lstm", "gru"])
def test_autoinit_knows_the_state_of_a_recurrent_layer(family: str, data: Any) -> None:
    model = module("_methods").auto_init(network(family, "tanh"), data).requires_grad_(False)
    states = model.rnn(data.features.unflatten(1, (8, -1)))[0][:, -1]
    expected = module("_autoinit").CELLS[type(model.rnn)](8)
    assert float(states.std()) == pytest.approx(math.sqrt(expected.variance), rel=0.2)
    assert float(model.head(states).std()) == pytest.approx(1, rel=0.3)


def test_lsuv_gives_unit_variance_where_the_paper_wants_it(data: Any) -> None:
    model = module("_methods").lsuv(network(activation="tanh"), data).requires_grad_(False)
    x = data.batch
    for layer in model.layers:
        y = layer(x)
        assert float(y.std()) == pytest.approx(1, abs=0.1)
        x = torch.tanh(y)


def test_code_is_measured_again_only_where_it_says_something_else() -> None:
    digest = module("_methods").digest
    one, other = network(), network(scheme="he")
    assert digest(one, "x = 1  # one") == digest(one, "x = 1")
    assert len({digest(one, "x = 1"), digest(one, "x = 2"), digest(other, "x = 1")}) == 3
    assert not digest(one, "")


@pytest.mark.parametrize(
    ("before", "now", "above", "worse"),
    [
        ([0.10, 0.101, 0.099], [0.12, 0.121, 0.119], True, True),
        ([0.10, 0.101, 0.099], [0.104, 0.103, 0.105], False, False),  # within 5%
        ([0.10, 0.20, 0.05], [0.12, 0.24, 0.06], True, False),  # the draws scatter more than that
        ([0.001, 0.002, 0.001], [0.004, 0.005, 0.009], False, False),  # all right, before and after
        ([0.1, 0.1, 0.1], [math.inf, math.inf, math.inf], True, True),
        ([math.inf, math.inf, math.inf], [0.1, 0.1, 0.1], False, False),
    ],
)
def test_worse_is_more_than_five_percent_and_two_errors(
    before: list[float], now: list[float], above: bool, worse: bool
) -> None:
    change = module("_losses").change(before, now)
    assert (change.more_than_tolerance, change.worse) == (above, worse)


def test_a_network_got_worse_if_it_did_with_either_optimizer() -> None:
    losses = module("_losses")
    same, more = [0.1, 0.11, 0.09], [0.2, 0.21, 0.19]
    found = losses.compare(
        {
            "adam": losses.Losses("", {"sgd": same, "adam": same}, {"sgd": same, "adam": more}),
            "neither": losses.Losses("", {"sgd": more, "adam": same}, {"sgd": same, "adam": same}),
        }
    )
    assert found.worse == ["adam"]


def test_more_draws_are_taken_of_what_seems_worse_and_what_is_known_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Any
) -> None:
    losses = module("_losses")
    monkeypatch.setattr(losses, "LOSSES", tmp_path / "losses.json")
    monkeypatch.setattr(losses, "load", lambda name: data)
    monkeypatch.setattr(losses, "code_of_fix", lambda network, data: f"depth = {network.depth}")
    monkeypatch.setattr(losses, "after", lambda code, network, data: (code, network))
    calls = []

    def trained(made: Any, data: Any) -> dict[str, float]:
        calls.append(made)
        code, one = made
        return {"sgd": 0.1, "adam": 0.2 if code and one.depth == 4 else 0.1}

    monkeypatch.setattr(losses, "final_losses", trained)
    nets = [network(depth=4), network(depth=5)]
    losses.measure_losses(nets, {})
    stored = losses.read_losses()
    assert {name: len(entry.fix["sgd"]) for name, entry in stored.items()} == {str(nets[0]): 9, str(nets[1]): 3}
    assert len(calls) == len(set(calls)) == 2 * (9 + 3)
    losses.measure_losses(nets, stored)
    assert len(calls) == 24, "nothing is measured twice"
    monkeypatch.setattr(losses, "code_of_fix", lambda network, data: "other = 1")
    losses.measure_losses(nets[1:], stored)
    assert len(calls) == 24 + 3, "the network as it was stays measured"


def test_other_methods_stand_with_the_network_of_the_default_scheme() -> None:
    fix, outcome = module("fix"), module("_training").Outcome
    good, bad = ({kind: outcome(score=score) for kind in ("sgd", "adam")} for score in (1.0, 0.0))
    nets = [network(scheme=scheme) for scheme in ("default", "he", "x 3")]
    labels = dict(zip(map(str, nets), (good, bad, bad), strict=True))
    results = {
        str(nets[0]): fix.Result("abc", {"AutoInit": good, "torch default": bad}),
        str(nets[1]): fix.Result("def", {"fix": good}),
        str(nets[2]): fix.Result("", {"fix": {}}),
    }
    found = fix.tally(nets, labels, results)
    assert (found.kept, found.changed) == (1, (str(nets[0]),))
    assert found.trains["fix"] == (1, 2)
    assert found.trains["AutoInit"] == (2, 2)
    assert found.trains["torch default"] == (0, 2)
    assert found.trains["LSUV, from its paper"] == (0, 0)
    assert found.unmended["fix"] == (str(nets[2]),)
    assert found.unmended["torch default"] == (str(nets[1]), str(nets[2]))


def test_networks_that_fail_are_trained_after_fix_once_for_each_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Any
) -> None:
    fix, outcome = module("fix"), module("_training").Outcome
    codes = {"default": "x = 1", "he": "x = 1", "x 3": ""}
    trained: list[Any] = []
    monkeypatch.setattr(fix, "RESULTS", tmp_path / "fix.json")
    monkeypatch.setattr(fix, "load", lambda name: data)
    monkeypatch.setattr(fix, "code_of_fix", lambda network, data: codes[network.scheme])
    monkeypatch.setattr(fix, "outcome", lambda method, network: trained.append(network) or {"sgd": outcome()})
    nets = [network(scheme=scheme) for scheme in codes]
    scores = dict(zip(map(str, nets), (1.0, 0.0, 0.0), strict=True))
    labels = {name: {kind: outcome(score=score) for kind in ("sgd", "adam")} for name, score in scores.items()}
    fix.measure_fix(nets, labels, fix.read_results())
    assert trained == [nets[1]], "the first trains by itself, and fix has nothing for the last"
    fix.measure_fix(nets, labels, fix.read_results())
    assert trained == [nets[1]]
    codes["he"] = codes["x 3"] = "x = 2"
    fix.measure_fix(nets, labels, fix.read_results())
    assert trained == [nets[1], nets[1], nets[2]]
    assert [bool(result.code) for result in fix.read_results().values()] == [True, True, True]


def test_what_is_stored_is_read_again_and_forgotten_by_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fix, outcome = module("fix"), module("_training").Outcome
    monkeypatch.setattr(fix, "RESULTS", tmp_path / "fix.json")
    label = {"sgd": outcome(0.5, 0.1, 1.0, 30)}
    nets = [network(), network(scheme="he")]
    one, other = map(str, nets)
    left = {"left alone": fix.Result("ghi", {"fix": label})}
    results = {one: fix.Result("abc", {"fix": label, "AutoInit": label}), other: fix.Result("def", {"fix": {}}), **left}
    fix.write_results(results)
    assert fix.read_results() == results
    fix.forget(["others"], nets, results, {})
    assert results[one] == fix.Result("abc", {"fix": label})
    fix.forget(["fix"], nets, results, {})
    assert results == {one: fix.Result(), other: fix.Result(), **left}


def test_no_step_is_spared_for_a_final_loss(data: Any) -> None:
    training = module("_training")
    model = network(depth=2, scheme="he").build(64, 10)
    few, many = (training.final_losses(model, data, steps=steps) for steps in (30, 150))
    assert set(few) == {"sgd", "adam"}
    assert all(many[kind] < few[kind] < math.log(10) for kind in few)
