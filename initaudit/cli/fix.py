"""``initaudit fix TARGET...``: the cure as code, with a table of before and after that was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from initaudit.cli.options import OPTIONS

SHARED = (
    *("keyword", "input", "loss", "device", "dtype", "seed", "seeds", "timeout"),
    *("select", "ignore", "fail_on", "format", "figure", "no_color", "quiet", "verbose", "config"),
)


def _shared_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of the audit that mean the same here."""

    def holder() -> None: ...

    for option in reversed(OPTIONS):
        option(holder)
    for parameter in holder.__click_params__:  # type: ignore[attr-defined]
        if parameter.name in SHARED:
            function.__click_params__ = [*getattr(function, "__click_params__", []), parameter]  # type: ignore[attr-defined]
    return function


@click.command("fix")
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option("--write", metavar="FILE", help="Write the code there, for one model; it is shown either way.")
@_shared_options
@click.pass_context
def fix_command(ctx: click.Context, /, write: str | None, keyword: str | None, config: str | None, **_: Any) -> int:
    """Find an initialization that mends what an audit finds, and print it as code.

    TARGET is what `initaudit TARGET` takes. For each model the smallest change that helps is tried on a copy: the
    layers that findings name, then all, then what deep stacks ask for. The function that is printed is the very one
    that a second audit ran, over --seeds draws (default 3); before and after stand side by side. What stays open is
    told, with what would help. A model without a finding above a note has nothing to fix. The exit code is 0 when
    nothing is left at or above --fail-on.

    \b
    Examples:
      initaudit fix model.py
      initaudit fix model.py::Net --input 32x3x224x224 --write init.py
      initaudit fix model.py --figure before_after.svg
    """
    from initaudit.cli.mending import fix

    return fix(ctx, write=write, keyword=keyword, config=config)
