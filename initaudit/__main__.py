"""``python -m initaudit``, also as ``torchrun ... -m initaudit``, where the first rank speaks for all."""

import os
import signal
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from initaudit.cli import main
from initaudit.launcher import launched

PATIENCE = 10.0  # seconds in which the first rank has printed its report
GRACE = 2.0  # seconds in which another rank has come to its end once the first has failed


def follow() -> None:
    """Run without a word. A failure is told after the first rank has, for then the launcher ends all processes.

    Where the first has not by then, it waits for this one and will not: what there is to say is said here. The launcher
    may be sooner than this process, which then has a moment to end by itself, with the status that is its own.
    """
    said, asked = StringIO(), threading.Event()

    def hasten(number: int, frame: object) -> None:
        asked.set()
        timer = threading.Timer(GRACE, os._exit, (128 + number,))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, hasten)
    with redirect_stdout(said), redirect_stderr(said):
        try:
            main(prog_name="initaudit")
        except SystemExit as error:
            if isinstance(code := error.code, int) and code:
                signal.signal(signal.SIGTERM, lambda number, frame: os._exit(code))
                if asked.is_set():
                    os._exit(code)
                time.sleep(PATIENCE)
                if sys.__stderr__ is not None:
                    sys.__stderr__.write(f"rank {launched().rank}:\n{said.getvalue()}")
            raise


if __name__ == "__main__":
    if launched().rank > 0:
        follow()
    main(prog_name="initaudit")
