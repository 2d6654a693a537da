"""What of a file is a model: instances, factories and classes, and which of them are only parts."""

import random

import numpy as np
import torch

from initaudit.target.collecting import rng_preserved, survey
from initaudit.target.importing import import_file

HEAD = """
import abc
import functools
from typing import TYPE_CHECKING, Annotated, Iterator, Optional
import torch
from torch import nn
"""
LAYER = """
class {name}(nn.Module):
    def __init__(self{arguments}):
        super().__init__()
        {body}

    def forward(self, x):
        return x
"""


def layer(name, body="self.w = nn.Linear(2, 2)", arguments=""):
    return LAYER.format(name=name, body=body, arguments=arguments)


def found(write, source, head=HEAD):
    path = write("model.py", head + source)
    return survey(import_file(path, "model.py")[0])


def names(write, source, head=HEAD):
    return [candidate.name for candidate in found(write, source, head).models]


def test_a_class_used_in_another_is_a_part_wherever_it_is_defined(write):
    block, net = layer("Block"), layer("Net", "self.body = nn.Sequential(Block(), Block())")
    result = found(write, block + net)
    assert [c.name for c in result.models] == ["Net"]
    assert result.passed_over == {"Block": "is part of another model"}


def test_the_whole_may_stand_before_its_parts(write):
    assert names(write, layer("Net", "self.body = Block()") + layer("Block")) == ["Net"]


def test_a_class_built_by_a_factory_or_an_instance_counts_as_used(write):
    factory = "def build_net() -> nn.Module:\n    return Net()\n"
    assert names(write, layer("Net") + factory) == ["build_net"]


def test_an_instance_stands_for_its_class(write):
    assert names(write, layer("Net") + "net = Net()\nsame = net\n") == ["net"]


def test_a_part_that_cannot_be_built_alone_is_still_a_part(write):
    block = layer("Block", "assert ALLOWED, 'not alone'\n        self.w = nn.Linear(2, 2)")
    net = layer("Net", "global ALLOWED\n        ALLOWED = True\n        self.body = Block()\n        ALLOWED = False")
    assert names(write, "ALLOWED = False\n" + block + net) == ["Net"]


def test_a_class_that_fails_and_is_no_part_stays_to_be_reported(write):
    assert names(write, layer("Broken", "raise ValueError('no')") + layer("Net")) == ["Broken", "Net"]


def test_what_cannot_stand_alone_is_passed_over_with_the_reason(write):
    source = (
        layer("Net")
        + layer("Needs", arguments=", dim, depth=2")
        + layer("Swish", "pass")
        + "class Base(nn.Module):\n    pass\n"
        + "class Abstract(nn.Module, abc.ABC):\n    def forward(self, x): ...\n"
        + "    @abc.abstractmethod\n    def f(self): ...\n"
        + "criterion = nn.CrossEntropyLoss()\n"
        + "def build_big(width):\n    return nn.Linear(width, 1)\n"
        + "def create_window():\n    return 3\n"
    )
    result = found(write, source)
    assert [c.name for c in result.models] == ["Net"]
    assert result.passed_over == {
        "Needs": "needs arguments (dim)",
        "Base": "has no forward method",
        "Abstract": "is abstract",
        "criterion": "has no parameters",
        "build_big": "needs arguments (width)",
        "create_window": "returns int, not an nn.Module",
        "Swish": "has no parameters",
    }


def test_a_base_class_by_convention_is_no_model(write):
    base = layer("Base", "self.w = self.make()") + "    def make(self):\n        raise NotImplementedError\n"
    child = "class Net(Base):\n    def make(self):\n        return nn.Linear(2, 2)\n"
    assert names(write, base + child) == ["Net"]


def test_imported_classes_and_functions_belong_to_their_own_file(write):
    write("parts.py", HEAD + layer("Imported") + "def build_imported():\n    return Imported()\n")
    assert names(write, "from parts import Imported, build_imported\n" + layer("Net")) == ["Net"]


def test_factories_by_annotation(write):
    body = "    return nn.Linear(2, 2)\n"
    source = "\n".join(
        f"def {name}() -> {annotation}:\n{body}"
        for name, annotation in {
            "plain": "nn.Module",
            "subclass": "nn.Linear",
            "text": '"nn.Module"',
            "annotated": "Annotated[nn.Module, 'x']",
            "either": "nn.Linear | nn.Conv2d",
            "checked_only": '"Module"',
            "maybe": "Optional[nn.Module]",
            "several": "list[nn.Module]",
            "kind": "type[nn.Module]",
            "build_number": "int",
            "iterator": "Iterator[nn.Module]",
        }.items()
    )
    source = "if TYPE_CHECKING:\n    from torch.nn import Module\n" + source
    expected = ["plain", "subclass", "text", "annotated", "either", "checked_only"]
    assert names(write, source) == expected


def test_factories_by_annotation_under_postponed_evaluation(write):
    source = "if TYPE_CHECKING:\n    from torch.nn import Module\n"
    source += "def one() -> Module:\n    return nn.Linear(2, 2)\ndef two() -> nn.Linear:\n    return nn.Linear(2, 2)\n"
    assert names(write, source, "from __future__ import annotations\n" + HEAD) == ["one", "two"]


def test_factories_by_name_are_functions_partials_and_cached_functions(write):
    source = (
        "def build_net(depth=3):\n    return nn.Linear(2, 2)\n"
        "make_net = functools.partial(nn.Linear, 2, 3)\n"
        "@functools.lru_cache\ndef create_net():\n    return nn.Linear(2, 2)\n"
        "get_model = lambda: nn.Linear(2, 2)\n"
        "def get_models_list(a):\n    return []\n"
        "def rebuild_net():\n    return nn.Linear(2, 2)\n"
        "async def build_later():\n    return nn.Linear(2, 2)\n"
        "def make_each():\n    yield nn.Linear(2, 2)\n"
    )
    assert names(write, source) == ["build_net", "make_net", "create_net", "get_model"]


def test_functions_named_after_data_are_not_called(write):
    source = "def make_dataset():\n    raise SystemExit('downloads')\ndef build_optimizer():\n    raise SystemExit\n"
    result = found(write, source + layer("Net"))
    assert [c.name for c in result.models] == ["Net"]


def test_other_functions_without_arguments_are_remembered(write):
    result = found(
        write, "def resnet18(pretrained=False):\n    pass\ndef helper(x):\n    pass\ndef main():\n    pass\n"
    )
    assert (result.models, result.callables) == ([], ["resnet18"])


def test_generators_are_preserved():
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with rng_preserved():
        torch.randn(3), random.random(), np.random.rand()
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
