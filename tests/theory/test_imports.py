"""The theory starts without torch."""

import subprocess
import sys


def test_importing_the_theory_does_not_import_torch() -> None:
    modules = "elementwise, fans, gains, quadrature, resolve, saturation, variance"
    code = (
        f"import sys, initaudit.report.gains; from initaudit.theory import {modules}; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
