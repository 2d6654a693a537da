"""``initaudit gain``: the gain an activation needs, or the table of all known ones."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import click

from initaudit.errors import UsageError

if TYPE_CHECKING:
    from initaudit.theory.resolve import ResolvedActivation

_WIDTH = 256
_FILE = re.compile(r"(?P<file>.+\.py)(?:::?(?P<rest>.*))?", re.DOTALL)


@click.command("gain")
@click.argument("activation", required=False)
@click.option(
    "--depth",
    type=click.IntRange(min=2, max=10_000),
    metavar="N",
    help="Also what theory predicts for N layers with it: rms by layer and gradient, for torch's default, Xavier, He "
    "and the gains shown.",
)
@click.option(
    "--figure",
    metavar="FILE",
    help="Draw it there, with its length map and the factor of gradients: .svg, .png or .pdf (extra figures).",
)
def gain_command(activation: str | None, depth: int | None, figure: str | None) -> None:
    """Show the gain that keeps the signal through an activation, or the table of all.

    ACTIVATION is a name as torch spells it (gelu, leaky_relu), with its arguments where it has any (LeakyReLU(0.2)),
    a function or class that can be imported (torch.nn.functional:silu), or your own (mymodule:my_act,
    path/to/file.py::my_act). Shown are the forward and the backward gain by quadrature over N(0, 1), what torch's
    calculate_gain says, and the length that the signal settles at with that gain, if it does.

    \b
    Examples:
      initaudit gain
      initaudit gain gelu
      initaudit gain "elu(alpha=0.5)"
      initaudit gain tanh --depth 50
      initaudit gain tanh --figure tanh.svg
      initaudit gain mymodule:my_act
      initaudit gain act.py::my_act
    """
    from rich.console import Console

    from initaudit.report.gains import gain_renderable, gain_table
    from initaudit.report.plots_canvas import check_path, save
    from initaudit.theory.activations import KNOWN
    from initaudit.theory.elementwise import analyse

    console = Console(highlight=False)
    if figure is not None:
        if activation is None:
            raise UsageError(f"--figure {figure} needs an ACTIVATION, as in `initaudit gain tanh --figure {figure}`")
        check_path(figure)
    if activation is None:
        if depth is not None:
            raise UsageError(f"--depth {depth} needs an ACTIVATION, as in `initaudit gain tanh --depth {depth}`")
        console.print(gain_table([analyse(name) for name in KNOWN]))
        return
    resolved = _find(activation)
    analysis = analyse(resolved)
    console.print(gain_renderable(analysis))
    if figure is not None:
        from initaudit.report.plots_gain import gain_figure
        from initaudit.theory.curves import curves

        save(gain_figure(analysis, curves(resolved)), figure)
    if depth is None:
        return
    from initaudit.report.depth import depth_renderable
    from initaudit.theory.depth import schemes_for, through_depth
    from initaudit.theory.elementwise import moments_of

    moments = moments_of(resolved)
    rows = [(s, through_depth(moments, s, depth=depth, width=_WIDTH)) for s in schemes_for(analysis, _WIDTH)]
    console.print()
    console.print(depth_renderable(analysis, rows, depth=depth, width=_WIDTH))


def _find(activation: str) -> ResolvedActivation:
    """By name or import path; a file is imported as an audit would import it."""
    from initaudit.theory.resolve import find_in, resolve_activation

    match = _FILE.fullmatch(activation)
    if match is None:
        sys.path.insert(0, os.getcwd())  # where mymodule would be found by `python -m`
        return resolve_activation(activation)
    from pathlib import Path

    from initaudit.target.importing import import_file

    file = match["file"]
    if not os.path.isfile(file):
        raise UsageError(f"there is no file {file!r}: expected the path of a Python file, as in 'act.py::my_act'")
    if not match["rest"]:
        raise UsageError(f"{file} holds more than one thing: name the activation, as in '{file}::my_act'")
    module, scope = import_file(Path(file), file)
    with scope.entered():
        return find_in(module, match["rest"], activation)
