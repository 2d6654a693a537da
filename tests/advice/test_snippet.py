"""The code of a plan: it sets what the plan sets and nothing else, however it groups."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initaudit.advice.facts import facts_of
from initaudit.advice.settings import Setting, constant
from initaudit.advice.snippet import init_function
from initaudit.curing import run


def code_of(model: nn.Module, plan: list[Setting]) -> str:
    named = model.named_parameters()
    constants = {name: float(p.detach().flatten()[0]) for name, p in named if p.detach().unique().numel() == 1}
    return init_function(plan, facts_of(model), constants, title="A plan.")


def body_of(code: str) -> list[str]:
    return code.splitlines()[8 - 1 :]


class Block(nn.Module):
    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        makers = {
            "linear": lambda: nn.Linear(3, 3),
            "unbiased": lambda: nn.Linear(3, 3, bias=False),
            "norm": lambda: nn.LayerNorm(3),
            "embedding": lambda: nn.Embedding(5, 3, padding_idx=1),
            "list": lambda: nn.ParameterList(nn.Parameter(torch.randn(3)) for _ in range(4)),
        }
        for place, kind in enumerate(kinds):
            self.add_module(f"part{place}", makers[kind]())
        self.scale = nn.Parameter(torch.randn(3))


KINDS = st.lists(st.sampled_from(["linear", "unbiased", "norm", "embedding", "list"]), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(blocks=st.lists(KINDS, min_size=1, max_size=6), alike=st.booleans(), data=st.data())
def test_the_code_sets_what_the_plan_sets_and_nothing_else(
    blocks: list[list[str]], alike: bool, data: st.DataObject
) -> None:
    model = nn.Sequential(*[Block(blocks[0] if alike else kinds) for kinds in blocks])
    names = [name for name, _ in model.named_parameters()]
    values = st.sampled_from([None, None, 0.0, 1.0, 0.5])
    wanted = {name: data.draw(values, label=name) for name in names}
    plan = [constant(name, value) for name, value in wanted.items() if value is not None]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    code = code_of(model, plan)
    run(code, model)
    for name, parameter in model.named_parameters():
        value = wanted[name]
        expected = before[name] if value is None else torch.full_like(parameter, value)
        assert torch.equal(parameter, expected), f"{name} in\n{code}"


def draws(names: list[str], scheme: str = "kaiming_normal_", arguments: str = 'nonlinearity="relu"') -> list[Setting]:
    return [Setting(name, scheme, arguments, 0.1) for name in names]


def test_one_class_is_one_branch_and_a_bias_that_is_missing_is_passed_over() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4, bias=place % 2 == 0) for place in range(6)])
    plan = draws([f"{i}.weight" for i in range(6)]) + [constant(f"{i}.bias", 0.0) for i in (0, 2, 4)]
    code = code_of(model, plan)
    assert body_of(code) == [
        "    for module in model.modules():",
        "        if isinstance(module, nn.Linear):",
        '            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")',
        "            if module.bias is not None:",
        "                nn.init.zeros_(module.bias)",
    ]
    run(code, model)


def test_layers_are_told_apart_by_their_name_in_the_block() -> None:
    model = nn.Sequential(*[nn.ModuleDict({"up": nn.Linear(4, 4), "down": nn.Linear(4, 4)}) for _ in range(5)])
    code = code_of(model, draws([f"{i}.up.weight" for i in range(5)]))
    assert body_of(code) == [
        "    for name, module in model.named_modules():",
        '        if isinstance(module, nn.Linear) and name.endswith(".up"):',
        '            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")',
    ]


def test_a_part_of_the_model_is_told_by_its_path() -> None:
    model = nn.ModuleDict({name: nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)]) for name in ("body", "other")})
    code = code_of(model, draws([f"body.{i}.weight" for i in range(4)]))
    assert '        if isinstance(module, nn.Linear) and name.startswith("body."):' in body_of(code)


def test_a_tied_weight_is_not_drawn_by_its_other_layer() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(6, 4), "layers": nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])})
    model["head"] = nn.Linear(4, 6, bias=False)
    model["head"].weight = model["table"].weight
    before = model["table"].weight.detach().clone()
    code = code_of(model, draws([f"layers.{i}.weight" for i in range(4)]))
    run(code, model)
    assert torch.equal(model["table"].weight, before)


def test_a_few_are_set_by_name_and_many_stds_are_a_table() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(5)])
    few = code_of(model, draws(["1.weight"]))
    assert body_of(few) == ['    nn.init.kaiming_normal_(model[1].weight, nonlinearity="relu")']
    many = [Setting(f"{i}.weight", "normal_", f"std=0.{i}1", float(f"0.{i}1")) for i in range(5)]
    assert body_of(code_of(model, many)) == [
        "    for tensor, std in [",
        *(f"        (model[{i}].weight, 0.{i}1)," for i in range(5)),
        "    ]:",
        "        nn.init.normal_(tensor, std=std)",
    ]


def test_a_fan_that_torch_reads_is_a_formula() -> None:
    model = nn.Sequential(*[nn.Linear(width, 4) for width in (4, 9, 16)])
    plan = [Setting(f"{i}.weight", "normal_", "std=?", 1.5 / n, gain=1.5) for i, n in enumerate((2, 3, 4))]
    code = code_of(model, plan)
    assert "            nn.init.normal_(module.weight, std=1.5 / module.weight[0].numel() ** 0.5)" in body_of(code)
    run(code, model)


def test_padding_stays_zero() -> None:
    model = nn.Sequential(nn.Embedding(7, 4, padding_idx=2))
    run(code_of(model, [Setting("0.weight", "normal_", "std=1", 1.0)]), model)
    assert not model[0].weight[2].any()
    assert model[0].weight[3].any()


def test_classes_of_other_libraries_are_told_by_their_name() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.ones(2, 2))

    model = nn.Sequential(*[Odd() for _ in range(4)])
    code = code_of(model, [constant(f"{i}.kernel", 0.5) for i in range(4)])
    assert '        if type(module).__name__ == "Odd":' in body_of(code)
