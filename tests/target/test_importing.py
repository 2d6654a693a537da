"""A user's file is imported as `python path/to/file.py` would run it, and nothing it does is a traceback."""

import pickle
import sys

import pytest

from initaudit.errors import AuditError
from initaudit.target.importing import import_dotted, import_file


def failure(path, shown):
    with pytest.raises(AuditError) as caught:
        import_file(path, shown)
    assert caught.value.stage == "load"
    return str(caught.value)


def test_main_block_does_not_run_and_neighbours_import(write):
    write("nets/helper.py", "VALUE = 5\n")
    path = write("nets/model.py", 'from helper import VALUE\nif __name__ == "__main__":\n    raise RuntimeError\n')
    module, _ = import_file(path, "nets/model.py")
    assert module.VALUE == 5
    assert module.__name__ == "model"
    assert sys.path[0] == str(path.parent)


def test_arguments_are_those_of_a_script_and_come_back(write):
    path = write("model.py", "import argparse, sys\nARGV = sys.argv[:]\nargparse.ArgumentParser().parse_args()\n")
    before = sys.argv
    module, _ = import_file(path, "model.py")
    assert module.ARGV == ["model.py"]
    assert sys.argv is before


def test_dataclasses_and_pickle_find_the_module(write):
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass C:\n    x: int = 3\n"
    )
    module, _ = import_file(write("model.py", source), "model.py")
    assert pickle.loads(pickle.dumps(module.C())) == module.C()


def test_relative_imports_work_inside_a_package(write):
    write("somepkg/__init__.py")
    write("somepkg/nets/__init__.py")
    write("somepkg/sizes.py", "WIDTH = 7\n")
    write("somepkg/nets/beside.py", "DEPTH = 2\n")
    path = write("somepkg/nets/model.py", "from ..sizes import WIDTH\nfrom beside import DEPTH\n")
    module, scope = import_file(path, "somepkg/nets/model.py")
    assert (module.__name__, module.WIDTH, module.DEPTH) == ("somepkg.nets.model", 7, 2)
    assert sys.path[0] == str(scope.root) == str(path.parents[2])
    assert sys.path[-1] == str(path.parent)


def test_a_package_itself_can_be_a_target(write):
    path = write("somepkg/__init__.py", "from .sizes import WIDTH\n")
    write("somepkg/sizes.py", "WIDTH = 7\n")
    assert import_file(path, "somepkg/__init__.py")[0].WIDTH == 7


def test_a_file_named_like_a_library_does_not_replace_it(write):
    import torch

    path = write("torch.py", "NAME = __name__\n")
    module, _ = import_file(path, "torch.py")
    assert module.NAME == "torch_model_file"
    assert sys.modules["torch"] is torch
    assert import_file(write("queue.py", "X = 1\n"), "queue.py")[0].__name__ == "queue_model_file"


def test_a_file_that_a_neighbour_imported_runs_once(write):
    write("log.py", "RUNS = []\n")
    model = write("model.py", "import log\nlog.RUNS.append(__name__)\n")
    train = write("train.py", "import model, log\n")
    log = import_file(train, "train.py")[0].log
    import_file(model, "model.py")
    assert log.RUNS == ["model"]


def test_a_failed_import_leaves_no_trace(write):
    write("nets/helper.py")
    path = write("nets/model.py", "import helper\nraise ValueError('x')\n")
    before_path, before_modules = sys.path[:], set(sys.modules)
    failure(path, "nets/model.py")
    assert sys.path == before_path
    assert not {"model", "helper"} & (set(sys.modules) - before_modules)


def test_interrupts_pass(write):
    with pytest.raises(KeyboardInterrupt):
        import_file(write("model.py", "raise KeyboardInterrupt\n"), "model.py")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "x = 1\ndef f(:\n",
            "could not import model.py: SyntaxError: invalid syntax\n"
            "  at model.py:2: def f(:\n"
            "  Correct the syntax there; the file must run under this Python.",
        ),
        (
            "import sys\nsys.exit('bye')\n",
            "could not import model.py: SystemExit('bye')\n"
            "  at model.py:2, in <module>: sys.exit('bye')\n"
            '  The file ends the program when it is imported: move that under `if __name__ == "__main__":`.',
        ),
        (
            "import no_such_package.part\n",
            "could not import model.py: ModuleNotFoundError: No module named 'no_such_package'\n"
            "  at model.py:1, in <module>: import no_such_package.part\n"
            "  Install no_such_package in this environment, or run where it can be imported.",
        ),
        (
            "from . import x\n",
            "could not import model.py: ImportError: attempted relative import with no known parent package\n"
            "  at model.py:1, in <module>: from . import x\n"
            "  Relative imports need a package: put an __init__.py beside model.py, or import by name.",
        ),
        (
            "def load():\n    open('weights.bin')\nload()\n",
            "could not import model.py: FileNotFoundError: [Errno 2] No such file or directory: 'weights.bin'\n"
            "  at model.py:2, in load: open('weights.bin')\n"
            '  Make model.py importable: what it does when run belongs under `if __name__ == "__main__":`.',
        ),
    ],
)
def test_every_failure_names_the_line_and_what_to_do(write, source, expected):
    assert failure(write("model.py", source), "model.py") == expected


def test_an_error_inside_a_library_names_the_users_line(write):
    text = failure(write("model.py", "import torch\ntorch.nn.Linear('a', 2)\n"), "model.py")
    assert text.splitlines()[1] == "  at model.py:2, in <module>: torch.nn.Linear('a', 2)"


def test_an_error_in_a_neighbour_names_that_file(write):
    write("helper.py", "def f(:\n")
    text = failure(write("model.py", "import helper\n"), "model.py")
    assert "  at helper.py:1: def f(:\n" in text


def test_dotted_import_fails_clearly():
    with pytest.raises(AuditError) as caught:
        import_dotted("no_such_package.nets")
    assert str(caught.value) == (
        "could not import no_such_package.nets: ModuleNotFoundError: No module named 'no_such_package'\n"
        "  Install no_such_package in this environment, or run where it can be imported."
    )
