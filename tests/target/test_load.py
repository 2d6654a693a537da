"""From a spec to targets: what is meant, how it is named, and what is said when it cannot be loaded."""

import sys

import pytest
import torch
from torch import nn

from initaudit.errors import AuditError, UsageError
from initaudit.target.load import Target, collect, explain_nothing

NET = """
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 2)

        def forward(self, x):
            return self.body(x)
"""


def ids(spec):
    return [target.id for target in collect(spec)]


def message(spec, error=AuditError):
    with pytest.raises(error) as caught:
        [target.build() for target in collect(spec)]
    if error is AuditError:
        assert caught.value.stage == "load"
    return str(caught.value)


def test_a_class_becomes_a_target_that_builds_it_anew_each_time(write):
    write("model.py", NET)
    (target,) = collect("model.py")
    assert (target.id, target.name, target.is_factory) == ("model.py::Net", "Net", True)
    first, second = target.build(), target.build()
    assert type(first).__name__ == "Net"
    assert first is not second
    assert target.module.Net is type(first)


def test_the_id_carries_the_path_as_it_was_given(write):
    path = write("sub/model.py", NET)
    assert ids("sub/model.py") == ["sub/model.py::Net"]
    assert ids(str(path)) == [f"{path}::Net"]
    assert ids("./sub/model.py::Net") == ["./sub/model.py::Net"]


def test_an_instance_is_itself_and_no_factory(write):
    write("model.py", "from torch import nn\nnet = nn.Linear(2, 2)\n")
    (target,) = collect("model.py")
    assert not target.is_factory
    assert target.build() is target.module.net


def test_a_named_function_may_have_any_name(write):
    write("model.py", "from torch import nn\ndef resnet18(pretrained=False):\n    return nn.Linear(2, 3)\n")
    assert ids("model.py") == []
    (target,) = collect("model.py::resnet18")
    assert target.build().out_features == 3


def test_nested_names_reach_classes_and_parts_of_instances(write):
    write(
        "model.py",
        """
        from torch import nn

        class Outer:
            class Inner(nn.Linear):
                def __init__(self):
                    super().__init__(3, 5)

        net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 7))
        """,
    )
    assert collect("model.py::Outer::Inner")[0].build().out_features == 5
    assert collect("model.py::net::1")[0].build().out_features == 7


def test_dotted_spec_imports_from_the_current_folder(write):
    write("zoo_package/__init__.py")
    write("zoo_package/nets.py", NET + "\n    class Box:\n        net = Net()\n")
    (target,) = collect("zoo_package.nets:Net")
    assert (target.id, target.name) == ("zoo_package.nets:Net", "Net")
    assert collect("zoo_package.nets:Box.net")[0].build().body.in_features == 4


def test_building_reports_the_line_of_the_user(write):
    write("model.py", "from torch import nn\n\ndef build_net() -> nn.Module:\n    return nn.Linear('a', 2)\n")
    text = message("model.py")
    assert text.startswith("could not build model.py::build_net: TypeError: ")
    assert text.endswith("\n  at model.py:4, in build_net: return nn.Linear('a', 2)")


def test_building_survives_sys_exit_and_unprintable_errors(write):
    write(
        "model.py",
        """
        import sys
        from torch import nn

        class Odd(Exception):
            def __str__(self):
                raise RuntimeError

        def build_exit() -> nn.Module:
            sys.exit(3)

        def build_odd() -> nn.Module:
            raise Odd
        """,
    )
    assert message("model.py::build_exit") == (
        "could not build model.py::build_exit: SystemExit(3)\n  at model.py:9, in build_exit: sys.exit(3)"
    )
    assert message("model.py::build_odd") == (
        "could not build model.py::build_odd: Odd\n  at model.py:12, in build_odd: raise Odd"
    )


def test_a_factory_must_return_a_module(write):
    write("model.py", "def build_net():\n    return 3\n")
    assert message("model.py::build_net") == "model.py::build_net returned int, expected a torch.nn.Module"


def test_arguments_are_listed_and_a_factory_is_shown(write):
    write(
        "model.py",
        """
        from torch import nn

        class TinyNet(nn.Module):
            def __init__(self, dim, *, depth, bias=True, **rest):
                super().__init__()

            def forward(self, x):
                return x
        """,
    )
    factory = "    def build_tiny_net() -> nn.Module:\n        return TinyNet(dim=..., depth=...)"
    assert message("model.py::TinyNet") == (
        "model.py::TinyNet needs arguments (dim, depth) and is built without any\n"
        f"  Write a factory without arguments and name that, e.g.\n{factory}"
    )
    assert collect("model.py") == []
    assert explain_nothing("model.py") == (
        "no model to audit in model.py: no nn.Module instance, and no factory or class that needs no argument\n"
        "  TinyNet needs arguments (dim, depth)\n"
        f"  Write a factory without arguments, e.g.\n{factory}"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Nett", "model.py has no Nett; did you mean Net?"),
        ("zzz", "model.py has no zzz; its models are Mute, Net"),
        ("Net::inner", "model.py::Net has no inner; it holds no model"),
        ("width", "model.py::width is of type int, expected an nn.Module, a class or a factory"),
        ("Plain", "model.py::Plain is a class but no subclass of torch.nn.Module"),
        ("Mute", "model.py::Mute has no forward method, so there is nothing to run"),
    ],
)
def test_names_that_are_no_model(write, name, expected):
    write("model.py", NET + "\n    width = 3\n    class Plain: pass\n    class Mute(nn.Module): pass\n")
    assert message(f"model.py::{name}") == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("modle.py", "no such file or folder: modle.py; did you mean model.py?"),
        ("nets/other.py", "no such file or folder: nets/other.py"),
        (
            "frob",
            "no such file or folder: frob\n"
            "  A target is model.py, model.py::Name, a folder, package.module:attr, hf:ARCH or timm:NAME.",
        ),
        ("model.py::", "model.py::: a name is missing after ::, expected e.g. model.py::Net"),
        ("notes.md", "notes.md is not a Python file; a target is a .py file or a folder of them"),
        ("nets::Net", "nets::Net: nets is a folder; name the file that holds Net"),
    ],
)
def test_specs_that_mean_nothing_are_usage_errors(write, spec, expected):
    write("model.py", NET)
    write("nets/bert.py", NET)
    write("notes.md")
    assert message(spec, UsageError) == expected


def test_a_folder_is_every_file_with_a_model_sorted(write):
    write("nets/b.py", NET)
    write("nets/a.py", NET)
    write("nets/deep/c.py", NET)
    write("nets/.hidden/d.py", NET)
    write("nets/env/pyvenv.cfg")
    write("nets/env/lib/e.py", NET)
    write("nets/setup.py", "import torch\nraise SystemExit\n")
    write("nets/plain.py", "raise RuntimeError('never imported: no word of a model in it')\n")
    write("nets/test_nets.py", "import torch\nraise RuntimeError\n")
    assert ids("nets") == ["nets/a.py::Net", "nets/b.py::Net", "nets/deep/c.py::Net"]


def test_a_broken_file_in_a_folder_fails_alone(write):
    write("nets/bad.py", "import torch\n1 / 0\n")
    write("nets/good.py", NET)
    bad, good = collect("nets")
    assert bad.id == "nets/bad.py"
    with pytest.raises(AuditError, match=r"could not import nets/bad.py: ZeroDivisionError: division by zero"):
        bad.build()
    assert isinstance(good.build(), nn.Module)


def test_files_of_one_name_in_two_folders_see_their_own_neighbours(write):
    source = """
        from torch import nn
        from layers import WIDTH

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                import layers
                self.body = nn.Linear(WIDTH, layers.WIDTH)

            def forward(self, x):
                return self.body(x)
    """
    for width, folder in enumerate(("a", "b"), start=1):
        write(f"nets/{folder}/model.py", source)
        write(f"nets/{folder}/layers.py", f"WIDTH = {width}\n")
    first, second = collect("nets")
    for target, width in ((first, 1), (second, 2), (first, 1)):
        body = target.build().body
        assert (body.in_features, body.out_features) == (width, width)


def test_an_instance_that_two_files_import_is_audited_once(write):
    write("nets/one.py", "from torch import nn\nnet = nn.Linear(2, 2)\n")
    write("nets/two.py", "import torch\nfrom one import net\n")
    assert ids("nets") == ["nets/one.py::net"]


def test_nothing_in_a_folder_is_explained(write):
    write("nets/a.py", "x = 1\n")
    assert collect("nets") == []
    assert explain_nothing("nets") == (
        "no model in the Python files of nets\n"
        "  Collected are nn.Module instances, functions that return an nn.Module and nn.Module classes, "
        "if they need no argument."
    )


def test_nothing_in_a_file_is_explained_with_a_function_that_might_be_meant(write):
    write("model.py", "from torch import nn\nnet = nn.ReLU()\ndef resnet18():\n    return nn.Linear(1, 1)\n")
    assert collect("model.py") == []
    assert explain_nothing("model.py") == (
        "no model to audit in model.py: no nn.Module instance, and no factory or class that needs no argument\n"
        "  net has no parameters\n"
        "  If a function there builds a model, name it: model.py::resnet18"
    )


def test_collecting_leaves_the_generators_alone(write):
    write("model.py", NET + NET.replace("Net", "Other"))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert ids("model.py") == ["model.py::Net", "model.py::Other"]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_target_needs_no_module():
    assert Target("x", "x", lambda: nn.Linear(1, 1)).build().in_features == 1
    assert "x" not in sys.modules
