"""What the garbage collector looks at while a model is probed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_NEVER = 1_000_000_000  # collections of the middle generation
_SELDOM = 5_000  # objects made and not freed: an audit of a hundred layers leaves about as many


@contextmanager
def earlier_objects_left_alone() -> Iterator[None]:
    """Inside, the garbage collector looks only at what was made lately, and less often.

    A record for each operation is enough to set off a collection of everything, which goes through all that torch and
    the model's library ever made: 0.1 to 0.2 s, and nothing of it is garbage.
    """
    before = young, middle, old = gc.get_threshold()
    inside = max(young, _SELDOM), middle, max(old, _NEVER)
    if young:  # else the program has turned it off
        gc.set_threshold(*inside)
    try:
        yield
    finally:
        if gc.get_threshold() == inside:  # else the model's own code has set others
            gc.set_threshold(*before)
