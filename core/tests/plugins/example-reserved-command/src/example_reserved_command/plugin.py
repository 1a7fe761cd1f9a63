"""A command called run."""

from __future__ import annotations

from crosslayer.component import Command, hookimpl


@hookimpl
def crosslayer_commands() -> list[Command]:
    """The core has this one."""
    return [Command("run", "Never seen", "example_reserved_command.plugin:app")]
