"""The top of the command line: the core's commands, and the plugins', loaded when called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from crosslayer.errors import DependencyError, InputError, nearest

if TYPE_CHECKING:
    from crosslayer.registry import Registry


def registry_of(ctx: Any) -> Registry:
    """What discovery finds under the options of this call; looked for once, and only if needed."""
    session = ctx.find_root().obj
    if session["registry"] is None:
        from crosslayer.discovery import discover

        session["registry"] = discover(only=session["only"])
    found: Registry = session["registry"]
    return found


class _HelpIsOff:
    """Some versions of typer start pydantic to read a --help that is not given as False."""

    def get_help_option(self, ctx: Any) -> Any:
        """The --help option, off until it is given."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default = False
        return option


class _AsGiven:
    """What typer makes of a parameter that is text: the text; pydantic has nothing to add."""

    def coerce(self, value: Any, **_: Any) -> Any:
        """The value."""
        return value


class LightCommand(_HelpIsOff, TyperCommand):
    """A command with flags and text only, which parses them without pydantic."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for parameter in self.params:
            of_type = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
            if of_type is str:
                setattr(parameter, "get_runtime_param", _AsGiven)  # noqa: B010


class LightGroup(_HelpIsOff, TyperGroup):
    """A group of commands that starts no pydantic for its --help."""


class LazyGroup(_HelpIsOff, TyperGroup):
    """The core's commands, and those that plugins declare.

    Help lists a plugin's command by its summary; only calling it imports its app.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help text."""
        return [*self.commands, *sorted(registry_of(ctx).commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command of the core, or a stand-in with the summary of a plugin's command."""
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        found = registry_of(ctx).commands.get(cmd_name)
        return found and TyperCommand(cmd_name, help=found.command.summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments call."""
        if args[0] in self.commands or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        return args[0], _plugin_command(ctx, args[0], self.commands), args[1:]

    def invoke(self, ctx: Any) -> Any:
        """Run the command. An interruption leaves as what it is; click would call it an abort."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except BrokenPipeError:
            raise SystemExit(141) from None


def _plugin_command(ctx: Any, name: str, ours: Any) -> Any:
    from crosslayer.loading import load

    registry = registry_of(ctx)
    if name not in registry.commands:
        sentence = f"no command {name!r}; {nearest(name, [*ours, *registry.commands])}"
        if registry.failures:
            failed = ", ".join(sorted(failure.entry_point for failure in registry.failures))
            sentence += f" (plugins that failed to load: {failed}; see `crosslayer plugins`)"
        raise InputError(sentence)
    found = registry.commands[name]
    what = f"command {name!r} of {found.origin.distribution}"
    loaded = load(found.command.app, what)
    if not isinstance(loaded, typer.Typer):
        raise DependencyError(f"{what}: {found.command.app} is no typer app")
    ctx.find_root().obj["plugin"] = what
    return typer.main.get_command(loaded)
