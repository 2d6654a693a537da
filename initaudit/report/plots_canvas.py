"""What every figure shares: matplotlib imported late, its style, the file it goes to.

Figures are made without ``pyplot``, so nothing global changes and no window opens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from initaudit.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png", ".pdf")
WIDTH = 7.2  # inches: a page of documentation is as wide, so text has the size it says
DPI = 150
SMALL = 7.5  # points: legends and remarks

# Okabe and Ito's colours (2008) differ for every kind of colour vision, and in grey.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.35"
BAND = "#56B4E9"

_STYLE = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": SMALL,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.borderpad": 0.2,
    "legend.handlelength": 1.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
}
# Without these two an SVG differs from run to run: its ids are drawn at random, and it holds the time.
_REPEATABLE = {"svg.hashsalt": "initaudit"}
_NO_DATE = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


def check_matplotlib() -> None:
    """Raise :class:`UsageError` that says what to install, when matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "figures are drawn by matplotlib, which is not installed: pip install 'initaudit[figures]', "
            "or pip install matplotlib"
        )


def check_path(path: str, option: str = "--figure") -> None:
    """Raise :class:`UsageError` for what a figure cannot be written to, so far as that can be told before it is drawn.

    ``option`` is named in the message.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UsageError(f"{option} {path}: the ending says what to write; expected one of {', '.join(SUFFIXES)}")
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: the directory to write it to does not exist; create it first")
    check_matplotlib()


@contextmanager
def style() -> Iterator[None]:
    """Sizes and weights of everything that is drawn inside; colours of the page and fonts are the user's own."""
    check_matplotlib()
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def blank(width: float, height: float) -> Figure:
    """An empty figure of that many inches, whose parts make room for each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: str, option: str = "--figure") -> None:
    """Write ``figure`` as the ending of ``path`` says; equal figures give equal files.

    Raises:
        UsageError: the ending is none of :data:`SUFFIXES`, or the file cannot be written.
    """
    import matplotlib

    check_path(path, option)
    try:
        with matplotlib.rc_context(_REPEATABLE):
            figure.savefig(path, dpi=DPI, metadata=_NO_DATE[Path(path).suffix.lower()])
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be written: {error.strerror or error}") from error
