"""torch-audit: findings of the category Stability over one step; those on speed and weight decay are no matter here."""

from collections.abc import Iterator

import torch
from serving import Complaint, serve
from torch import Tensor, nn
from torch.nn import functional as F
from torch_audit import audit_dynamic


def look(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Complaint]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with audit_dynamic(model, optimizer=optimizer, every_n_steps=1, reporters=[]) as auditor:
        loss = F.cross_entropy(auditor.forward(x), y)
        auditor.backward(loss)
        auditor.optimizer_step()
    result = auditor.finish(report=False)
    for finding in result.findings:
        rule = result.rules.get(finding.rule_id)
        if rule is not None and rule.category == "Stability":
            text = f"{finding.message} {rule.remediation}"
            yield Complaint(f"{finding.rule_id} {finding.severity.name}", finding.module_path or "", text)


serve(look)
