"""The words that an option or a setting may hold.

Here and not beside their use, so that the help page waits for no other room.
"""

from __future__ import annotations

import re

from initaudit.errors import UsageError

DTYPES = ("float32", "bfloat16", "float16", "float64")  # a model can be cast to, by torch's names
FORMATS = ("table", "json")
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
DEVICE_EXPECTED = "auto, cpu, cuda, cuda:N or mps"
NEVER = "never"
CHECKPOINTS = (".safetensors", ".index.json", ".pt", ".pth", ".pth.tar", ".bin", ".ckpt")
FAIL_ON = ("error", "warning", "note", NEVER)  # the severities, worst first


def is_checkpoint(target: str) -> bool:
    """Whether a TARGET names a checkpoint, by its ending."""
    return target.lower().endswith(CHECKPOINTS)


def check_fail_on(word: str) -> None:
    """Raise :class:`UsageError` for what is none of :data:`FAIL_ON`."""
    if word not in FAIL_ON:
        raise UsageError(f"fail_on is {word!r}, expected one of {', '.join(FAIL_ON)}")
