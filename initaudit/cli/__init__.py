"""The command ``initaudit``. The only room that prints; its process never imports torch to audit."""

from initaudit.cli.audit import audit_command
from initaudit.cli.gain import gain_command
from initaudit.cli.group import DefaultGroup
from initaudit.cli.rule import rule_command

main = DefaultGroup(name="initaudit", default=audit_command, commands=[rule_command, gain_command])

__all__ = ["main"]
