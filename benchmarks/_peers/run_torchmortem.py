"""torchmortem: every finding above an information, after ten steps of SGD, as it judges runs and not models."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from serving import Complaint, serve
from torch import Tensor, nn
from torch.nn import functional as F
from torchmortem import Autopsy

STEPS = 10


def look(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Complaint]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Autopsy(model, optimizer=optimizer, sampling="thorough") as autopsy:
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            autopsy.step(loss=loss.item())
    with TemporaryDirectory() as folder:
        report = autopsy.report(str(Path(folder) / "report.json"))
    for finding in report.findings:
        if finding.severity.name != "INFO":
            layer = next(iter(finding.affected_layers), "")
            text = " ".join([finding.title, finding.summary, *finding.remediation])
            yield Complaint(f"{finding.detector} {finding.severity.name}", layer, text)


serve(look)
