"""initaudit itself: every finding above a note, root causes first."""

from collections.abc import Iterator

from serving import Complaint, serve
from torch import Tensor, nn

import initaudit


def look(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Complaint]:
    for finding in initaudit.audit(model, x).findings:
        if finding.severity is not initaudit.Severity.NOTE:
            cure = finding.advice.code if finding.advice else ""  # a std in the message is no cure
            yield Complaint(f"{finding.code} {finding.severity.value}", finding.fqn, cure)


serve(look)
