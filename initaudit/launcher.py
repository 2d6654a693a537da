"""The place of this process among those that ``torchrun`` has started; read from the environment, without torch."""

from __future__ import annotations

import os
from typing import NamedTuple


class Ranks(NamedTuple):
    """The rank of this process and the number of processes."""

    rank: int = 0
    size: int = 1


def launched() -> Ranks:
    """What ``torchrun`` has set in the environment; rank 0 of one process without it.

    Its own name is asked for, since clusters set the others for processes that are to start ``torchrun`` themselves.
    """
    if not {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return Ranks()
    return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
