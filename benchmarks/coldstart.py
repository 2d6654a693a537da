"""How long until the command answers?

    python benchmarks/coldstart.py [--quick] [--repeats 5]

Each command runs in a process of its own, all of them once per round, and the median of the rounds is shown. What
answers without a model must not wait for torch; a whole audit is compared with `import torch` alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from _common import environment, medians, parser, show

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "deep_relu_mlp_he.py"
INITAUDIT = ("-m", "initaudit")
PYTEST = ("-m", "pytest", "--version", "--version")  # loads every plugin, and tests nothing
COMMANDS: dict[str, tuple[str, ...]] = {
    'python -c "pass"': ("-c", "pass"),
    'python -c "import click, rich"': ("-c", "import click, rich"),
    "initaudit --help": (*INITAUDIT, "--help"),
    "initaudit --version": (*INITAUDIT, "--version"),
    "initaudit rule": (*INITAUDIT, "rule"),
    "initaudit rule IA101": (*INITAUDIT, "rule", "IA101"),
    "pytest without the plugin": (*PYTEST, "-p", "no:initaudit"),
    "pytest with the plugin": PYTEST,
    'python -c "import torch"': ("-c", "import torch"),
    f"initaudit {EXAMPLE.parent.name}/{EXAMPLE.name}": (*INITAUDIT, str(EXAMPLE)),
}


def run(arguments: Sequence[str]) -> None:
    """Run python with ``arguments`` to its end. Raises ``RuntimeError`` when that fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"python {' '.join(arguments)} ended with {done.returncode}: {done.stderr or done.stdout}")


def measure(repeats: int) -> dict[str, float]:
    """Median wall seconds of each command."""
    actions = [lambda arguments=arguments: run(arguments) for arguments in COMMANDS.values()]
    return {name: wall for name, (wall, _) in zip(COMMANDS, medians(*actions, repeats=repeats), strict=True)}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args(arguments)
    print(environment())
    seconds = measure(1 if given.quick else given.repeats)
    libraries, torch_alone = seconds['python -c "import click, rich"'], seconds['python -c "import torch"']
    show(
        ("command", "seconds", "over import click, rich"),
        [(name, f"{wall:.2f}", f"{wall / libraries:.2f}") for name, wall in seconds.items()],
    )
    *_, audited = seconds.values()
    print(
        f"coldstart: --help takes {seconds['initaudit --help'] / libraries:.2f} times `import click, rich`; "
        f"an audit takes {audited - torch_alone:.2f} s more than `import torch`"
    )


if __name__ == "__main__":
    main()
