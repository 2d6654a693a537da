"""The theory starts without torch, and what the rules need of it without numpy."""

import subprocess
import sys


def test_importing_the_theory_does_not_import_torch() -> None:
    modules = "elementwise, fans, gains, quadrature, resolve, saturation, variance"
    code = (
        f"import sys, initaudit.report.gains; from initaudit.theory import {modules}; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_variance_rule_is_written_in_plain_numbers() -> None:
    code = (
        "import sys; from initaudit.theory import formats, variance; variance.ratio_band(5.0, 64, 1e-3); "
        "sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
