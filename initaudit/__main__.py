"""``python -m initaudit``, also as ``torchrun ... -m initaudit``, where the first rank speaks for all."""

import os
import signal
import time
from contextlib import redirect_stderr, redirect_stdout

from initaudit.cli import main
from initaudit.launcher import launched

PATIENCE = 10.0  # seconds in which the first rank has printed its report


def follow() -> None:
    """Run without a word. A failure is told after the first rank has, for then the launcher ends all processes."""
    with open(os.devnull, "w", encoding="utf-8") as null, redirect_stdout(null), redirect_stderr(null):
        try:
            main(prog_name="initaudit")
        except SystemExit as error:
            if isinstance(code := error.code, int) and code:
                signal.signal(signal.SIGTERM, lambda number, frame: os._exit(code))
                time.sleep(PATIENCE)
            raise


if __name__ == "__main__":
    if launched().rank > 0:
        follow()
    main(prog_name="initaudit")
