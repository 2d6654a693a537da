"""What the garbage collector looks at while a model is probed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_NEVER = 1_000_000_000  # collections of the middle generation


@contextmanager
def earlier_objects_left_alone() -> Iterator[None]:
    """Inside, the garbage collector looks only at what was made lately.

    A record for each operation is enough to set off a collection of everything, which goes through all that torch and
    the model's library ever made: 0.1 to 0.2 s, and nothing of it is garbage.
    """
    young, middle, old = gc.get_threshold()
    if young:  # else the program has turned it off
        gc.set_threshold(young, middle, max(old, _NEVER))
    try:
        yield
    finally:
        if gc.get_threshold() == (young, middle, max(old, _NEVER)):  # else the model's own code has set others
            gc.set_threshold(young, middle, old)
