"""``initaudit gain``: the gain an activation needs, or the table of all known ones."""

from __future__ import annotations

import os
import sys

import click


@click.command("gain")
@click.argument("activation", required=False)
def gain_command(activation: str | None) -> None:
    """Show the gain that keeps the signal through an activation, or the table of all.

    ACTIVATION is a name as torch spells it (gelu, leaky_relu), a function or module class that can be imported
    (torch.nn.functional:silu), or your own (mymodule:my_act). Shown are the forward and the backward gain by
    quadrature over N(0, 1), what torch's calculate_gain says, and the length that the signal settles at with that
    gain, if it does.

    \b
    Examples:
      initaudit gain
      initaudit gain gelu
      initaudit gain mymodule:my_act
    """
    from rich.console import Console

    from initaudit.report.gains import gain_renderable, gain_table
    from initaudit.theory.activations import FORMS, GATES
    from initaudit.theory.elementwise import analyse

    console = Console(highlight=False)
    if activation is None:
        console.print(gain_table([analyse(name) for name in (*FORMS, *GATES)]))
        return
    sys.path.insert(0, os.getcwd())  # where mymodule would be found by `python -m`
    console.print(gain_renderable(analyse(activation)))
