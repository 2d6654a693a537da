"""Shows networks to one peer and writes down what it says: the body of every ``run_*.py`` in this folder.

    python run_PEER.py OUTPUT NAME...
    python run_PEER.py --cost NAME OUTPUT LIMIT

One JSON line per network goes to the file OUTPUT, as soon as it is known; with `--cost`, what looking at the model NAME
costs, once.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import costs
import networks
import torch
from torch import Tensor, nn


class Complaint(NamedTuple):
    """``kind`` tells complaints of one sort apart from others; ``layer`` is empty where none is named."""

    kind: str
    layer: str
    text: str


Look = Callable[[nn.Module, Tensor, Tensor], Iterable[Complaint]]


def owner(parameter: str) -> str:
    """The module of a parameter's name."""
    return parameter.removesuffix(".weight").removesuffix(".bias")


def serve(look: Look) -> None:
    """Have ``look(model, x, y)`` judge each network named on the command line, one thread, in one process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if sys.argv[1] == "--cost":
        costs.cost(look, *sys.argv[2:])
        return
    output, *names = sys.argv[1:]
    for name in names:
        model, x, y = networks.made(name)
        complaints: list[Complaint] = []
        error = ""
        started = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                complaints = list(look(model, x, y))
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}".splitlines()[0]
        seconds = time.perf_counter() - started
        with open(output, "a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "complaints": complaints, "error": error, "seconds": seconds}) + "\n")
