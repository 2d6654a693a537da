"""Sample inputs: the file convention, the order of sources, and leaving the user's tensors alone."""

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from initaudit.errors import AuditError, UsageError
from initaudit.target.inputs import Inputs, as_inputs, candidate_inputs, none_ran


class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

    def forward(self, x, y=None):
        return super().forward(x)


def file(**names):
    module = ModuleType("model")
    module.__file__ = "/somewhere/model.py"
    vars(module).update(names)
    return module


def only(model, **options):
    (inputs,) = candidate_inputs(model, **options)
    return inputs


def described(model, **options):
    inputs = only(model, **options)
    return inputs.describe(), inputs.source


# The convention


def test_a_tensor_is_one_positional_argument():
    x = torch.ones(2)
    assert as_inputs(x).args == (x,)


def test_a_tuple_is_positional_a_mapping_keyword_and_a_list_one_argument():
    assert as_inputs((1, 2)).args == (1, 2)
    assert as_inputs({"x": 1}).kwargs == {"x": 1}
    assert as_inputs([torch.ones(1), 2]).describe() == "[float32[1], 2]"
    assert as_inputs({0: "a"}).args == ({0: "a"},)
    assert as_inputs(np.zeros((2, 3), dtype=np.float32)).describe() == "float32[2,3]"


def test_inputs_pass_through_and_strings_are_read():
    given = Inputs((1,), {}, "mine")
    assert as_inputs(given) is given
    assert as_inputs("2x3").describe() == "float32[2,3]"
    assert as_inputs(["2x3", "mask=bool[2]"]).describe() == "float32[2,3], mask=bool[2]"


def test_two_written_inputs_of_one_shape_differ():
    first, second = as_inputs(("2x3", "2x3")).args
    assert not torch.equal(first, second)


def test_a_keyword_given_twice_is_an_error():
    with pytest.raises(UsageError) as caught:
        as_inputs(["x=2", "x=3"])
    assert str(caught.value) == "input 'x=3': x is given twice"


def test_one_file_can_hold_the_whole_batch():
    torch.save({"x": torch.ones(2), "y": torch.ones(3)}, "batch.pt")
    torch.save((torch.ones(2), torch.ones(3)), "pair.pt")
    assert as_inputs("@batch.pt").describe() == "x=float32[2], y=float32[3]"
    assert as_inputs("@pair.pt").describe() == "float32[2], float32[3]"
    assert as_inputs(["@pair.pt", "4"]).describe() == "(float32[2], float32[3]), float32[4]"


def test_describe():
    assert (
        Inputs((torch.zeros(2, 3),), {"ids": torch.zeros(4, dtype=torch.long)}).describe()
        == "float32[2,3], ids=int64[4]"
    )
    assert Inputs().describe() == "no input"


# Moving


def test_to_casts_floats_only_and_copies_everything():
    x, ids = torch.ones(3, requires_grad=True), torch.ones(3, dtype=torch.int64)
    given = Inputs((x, [ids]), {"again": x}, "mine")
    moved = given.to("cpu", torch.bfloat16)
    assert (moved.args[0].dtype, moved.args[1][0].dtype, moved.source) == (torch.bfloat16, torch.int64, "mine")
    assert moved.args[0].requires_grad
    assert moved.args[0].is_leaf
    assert moved.kwargs["again"] is moved.args[0]
    with torch.no_grad():
        moved.args[0].zero_()
        moved.args[1][0].zero_()
    assert x.tolist() == ids.tolist() == [1, 1, 1]


def test_to_without_a_dtype_still_copies_and_detaches():
    x = torch.ones(2, requires_grad=True) * 2
    (moved,) = Inputs((x,)).to("cpu").args
    assert moved.grad_fn is None
    assert moved.data_ptr() != x.data_ptr()


# Sources, in their order


def test_given_wins_over_everything():
    model = Net()
    model.example_input_array = torch.randn(3, 4)
    module = file(initaudit_inputs=torch.ones(5, 4))
    assert described(model, given=torch.ones(6, 4), module=module) == ("float32[6,4]", "audit(inputs=...)")
    assert described(model, given=["2x4"], module=module) == ("float32[2,4]", "--input")
    assert described(model, module=module) == ("float32[5,4]", "initaudit_inputs in model.py")
    assert described(model) == ("float32[3,4]", "example_input_array of Net")


@pytest.mark.parametrize(
    "value",
    [torch.ones(5, 4), (torch.ones(5, 4),), "5x4", lambda: torch.ones(5, 4), lambda: (torch.ones(5, 4),)],
    ids=["tensor", "tuple", "text", "callable", "callable giving a tuple"],
)
def test_inputs_of_the_file(value):
    assert described(Net(), module=file(initaudit_inputs=value)) == ("float32[5,4]", "initaudit_inputs in model.py")


def test_a_mapping_is_keyword_arguments_or_by_model_name():
    by_argument = file(Net=Net, initaudit_inputs={"x": torch.ones(5, 4)})
    assert described(Net(), module=by_argument, name="Net")[0] == "x=float32[5,4]"

    def other():
        return {"x": torch.ones(6, 4)}

    by_model = file(
        Net=Net, Other=Net, initaudit_inputs={"Net": torch.ones(5, 4), "Other": lambda: {"x": torch.ones(6, 4)}}
    )
    assert described(Net(), module=by_model, name="Net") == ("float32[5,4]", "initaudit_inputs in model.py")
    assert described(Net(), module=by_model, name="Other")[0] == "x=float32[6,4]"


def test_a_model_that_the_dict_leaves_out_is_inferred():
    module = file(Net=Net, Other=Net, initaudit_inputs={"Other": torch.ones(5, 4)})
    first = next(candidate_inputs(Net(), module=module, name="Net"))
    assert first.source == "inferred from first layer Net(4, 2)"


def test_a_key_that_is_a_model_and_an_argument_is_the_argument():
    module = file(x=torch.ones(1), initaudit_inputs={"x": torch.ones(5, 4)})
    assert described(Net(), module=module, name="x")[0] == "x=float32[5,4]"


def test_a_callable_is_drawn_reproducibly_and_keeps_the_generator():
    module = file(initaudit_inputs=lambda: torch.randn(5, 4))
    model, before = Net(), torch.get_rng_state()
    first, again = only(model, module=module, seed=3), only(model, module=module, seed=3)
    assert torch.equal(first.args[0], again.args[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_failing_callable_names_the_line(write):
    from initaudit.target.importing import import_file

    module, _ = import_file(write("model.py", "def initaudit_inputs(batch):\n    pass\n"), "model.py")
    with pytest.raises(AuditError) as caught:
        only(Net(), module=module)
    assert caught.value.stage == "input"
    assert str(caught.value) == (
        "initaudit_inputs in model.py failed: TypeError: initaudit_inputs() "
        "missing 1 required positional argument: 'batch'\n"
        "  It is called without arguments and returns the input."
    )
    module, _ = import_file(write("other.py", "def initaudit_inputs():\n    return 1 / 0\n"), "other.py")
    with pytest.raises(AuditError) as caught:
        only(Net(), module=module)
    assert str(caught.value) == (
        "initaudit_inputs in other.py failed: ZeroDivisionError: division by zero\n"
        "  at other.py:2, in initaudit_inputs: return 1 / 0\n"
        "  It is called without arguments and returns the input."
    )


def test_dummy_inputs_and_a_property_that_raises():
    class Dummy(Net):
        @property
        def example_input_array(self):
            raise RuntimeError

        @property
        def dummy_inputs(self):
            return {"x": torch.randn(9, 4)}

    assert described(Dummy()) == ("x=float32[9,4]", "dummy_inputs of Dummy")


@pytest.mark.parametrize("config", [{"input_size": (3, 96, 96)}, SimpleNamespace(input_size=(3, 96, 96))])
def test_timm_configs(config):
    model = nn.Conv2d(3, 8, 3)
    model.pretrained_cfg = config
    assert described(model) == ("float32[8,3,96,96]", 'pretrained_cfg["input_size"] of Conv2d')
    model.pretrained_cfg = None
    model.default_cfg = {"input_size": None}
    assert next(candidate_inputs(model)).source == "inferred from first layer Conv2d(3, 8)"


def test_a_constant_example_lends_only_its_shape():
    model = Net()
    model.example_input_array = torch.zeros(1, 4)
    inputs = only(model)
    assert inputs.describe() == "float32[8,4]"
    assert inputs.source == "example_input_array of Net (shape only: its values are constant)"
    assert torch.unique(inputs.args[0], dim=0).shape[0] == 8
    assert model.example_input_array.shape == (1, 4)
    kept = torch.randn(1, 4)
    model.example_input_array = kept
    assert only(model).args == (kept,)


def test_unbounded_integers_stay_below_the_vocabulary():
    inputs = only(nn.Embedding(3, 2), given="int64[8,64]")
    assert inputs.args[0].max() == 2


def test_nothing_to_infer_says_how_to_give_an_input():
    class Opaque(nn.Module):
        def forward(self, x, context=None):
            return x

    with pytest.raises(AuditError) as caught:
        list(candidate_inputs(Opaque()))
    assert caught.value.stage == "input"
    assert str(caught.value) == (
        "no sample input can be inferred for Opaque\n"
        "  forward takes (x, context=None). Give an input that it takes, as in:\n"
        "    on the command line:    --input 'float32[32,64]'\n"
        "    in the model's file:    initaudit_inputs = torch.randn(32, 64)\n"
        "    on the model:           self.example_input_array = torch.randn(32, 64)"
    )


def test_several_arguments_are_written_out_by_name():
    class Two(nn.Module):
        def forward(self, image, text):
            return image

    with pytest.raises(AuditError) as caught:
        list(candidate_inputs(Two()))
    assert "--input 'image=float32[32,64]' --input 'text=float32[32,64]'" in str(caught.value)
    assert 'initaudit_inputs = {"image": torch.randn(32, 64), "text": torch.randn(32, 64)}' in str(caught.value)


def test_when_no_candidate_runs_every_try_is_listed():
    class Five(nn.Linear):
        def forward(self, x):
            raise ValueError(f"five dimensions, not {x.dim()}")

    model, failures = Five(4, 2), []
    for inputs in candidate_inputs(model):
        try:
            model(*inputs.args)
        except ValueError as error:
            failures.append((inputs, error))
    error = none_ran(model, failures)
    assert error.stage == "input"
    lines = str(error).splitlines()
    assert lines[:4] == [
        "no sample input that was inferred runs Five",
        "  Tried were",
        "    float32[64,4]    ValueError: five dimensions, not 2",
        "    float32[8,16,4]  ValueError: five dimensions, not 3",
    ]
    assert lines[4].startswith("  The first failed at ")
    assert lines[4].endswith('in forward: raise ValueError(f"five dimensions, not {x.dim()}")')
    assert lines[5:] == [
        "  forward takes (x). Give an input that it takes, as in:",
        "    on the command line:    --input 'float32[64,4]'",
        "    in the model's file:    initaudit_inputs = torch.randn(64, 4)",
        "    on the model:           self.example_input_array = torch.randn(64, 4)",
    ]


def test_one_given_input_that_fails_is_the_forward_pass():
    error = none_ran(Net(), [(Inputs((torch.ones(2, 3),), {}, "--input"), ValueError("no"))])
    assert (error.stage, str(error)) == ("forward", "forward of Net failed on float32[2,3] (--input): ValueError: no")
