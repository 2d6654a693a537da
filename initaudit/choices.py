"""The words that an option or a setting may hold. Here and not beside their use, so that the help page waits for none."""

from __future__ import annotations

import re

DTYPES = ("float32", "bfloat16", "float16", "float64")  # a model can be cast to, by torch's names
FORMATS = ("table", "json")
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
DEVICE_EXPECTED = "auto, cpu, cuda, cuda:N or mps"
NEVER = "never"
FAIL_ON = ("error", "warning", "note", NEVER)  # the severities, worst first
