"""What discovery found: look a component up by name, check its parameters, build it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from crosslayer.component import Command, Component
from crosslayer.errors import ComponentError, CrosslayerError, InputError, nearest
from crosslayer.hookspecs import HOOK_OF_KIND
from crosslayer.loading import load, missing_module, one_line

if TYPE_CHECKING:
    from pydantic import BaseModel

    from crosslayer.parameters import Parameter

KINDS: tuple[str, ...] = tuple(HOOK_OF_KIND)

# Where loading a plugin can fail, in the order of the attempts.
Stage = Literal[
    "metadata", "selection", "version", "import", "register", "hooks", "call", "components"
]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a component came from; file: of the plugin module."""

    entry_point: str
    distribution: str
    version: str
    file: str


@dataclass(frozen=True, slots=True)
class Registered:
    """A component and where it came from."""

    kind: str
    component: Component
    origin: Origin

    @property
    def distribution(self) -> str:
        """The distribution that registered it."""
        return self.origin.distribution

    @property
    def version(self) -> str:
        """The version of that distribution."""
        return self.origin.version

    @property
    def file(self) -> str:
        """The file of its plugin module."""
        return self.origin.file


@dataclass(frozen=True, slots=True)
class RegisteredCommand:
    """A sub-command and where it came from."""

    command: Command
    origin: Origin


@dataclass(frozen=True, slots=True)
class Failure:
    """A plugin that contributes nothing, at which stage it failed, and why."""

    entry_point: str
    distribution: str
    version: str
    stage: Stage
    reason: str

    def __str__(self) -> str:
        who = f"plugin {self.entry_point!r}"
        if self.distribution:
            who += f" ({self.distribution} {self.version})"
        return f"{who} failed at {self.stage}: {self.reason}"


class PluginFailed(InputError):
    """A name belongs to a plugin that is installed and did not load."""

    exit_code = 3


def kind_label(kind: str) -> str:
    """A kind in words: "model transform"."""
    return kind.replace("_", " ")


class Registry:
    """The components of every kind, the plugins' commands, and the plugins that failed."""

    def __init__(
        self,
        components: Iterable[Registered] = (),
        commands: Iterable[RegisteredCommand] = (),
        failures: Iterable[Failure] = (),
    ) -> None:
        by_kind: dict[str, dict[str, Registered]] = {kind: {} for kind in KINDS}
        for found in components:
            by_kind[found.kind][found.component.name] = found
        self._by_kind = {kind: MappingProxyType(names) for kind, names in by_kind.items()}
        self.commands: Mapping[str, RegisteredCommand] = MappingProxyType(
            {found.command.name: found for found in commands}
        )
        self.failures: tuple[Failure, ...] = tuple(failures)

    def __reduce__(self) -> tuple[Any, ...]:
        """Names and dotted paths only, so a registry travels to other processes as it is."""
        found = [one for names in self._by_kind.values() for one in names.values()]
        return type(self), (found, list(self.commands.values()), self.failures)

    def components(self, kind: str) -> Mapping[str, Registered]:
        """The components of one of KINDS by name."""
        if kind not in self._by_kind:
            raise InputError(f"no kind of component {kind!r}; {nearest(kind, KINDS)}")
        return self._by_kind[kind]

    def get(self, kind: str, use: str) -> Registered:
        """The component that `use` ("thinkv", "roofline:a100-80g") names.

        Raises InputError with the nearest name, or with the package of the catalogue that has it;
        PluginFailed, one of exit code 3, where that package is installed and did not load.
        """
        known = self.components(kind)
        if use in known:
            return known[use]
        name, colon, preset = use.partition(":")
        if colon and name in known:
            presets = known[name].component.presets
            if preset in presets:
                return known[name]
            hint = nearest(preset, presets) if presets else "it has no presets"
            raise InputError(f"{kind_label(kind)} {name!r} has no preset {preset!r}; {hint}")
        raise self._unknown(kind, use)

    def _unknown(self, kind: str, use: str) -> InputError:
        from crosslayer.catalogue import installed_version, package_of

        what = f"{kind_label(kind)} {use!r}"
        package = package_of(kind, use.partition(":")[0])
        if package is not None:
            for failure in self.failures:
                if package.name in (failure.entry_point, failure.distribution):
                    return PluginFailed(f"{what} is not available: {failure}")
            way = f"install it from {package.path} of crosslayer's repository"
            if installed_version(package):
                way = "it is installed, but CROSSLAYER_PLUGINS or --no-plugins leaves it out"
            return InputError(
                f"{what} belongs to the package {package.name}, which is not loaded: {way}"
            )
        others = [other for other in KINDS if use in self._by_kind[other]]
        if others:
            kinds = " and ".join(f"{_article(other)} {kind_label(other)}" for other in others)
            return InputError(f"no {what}: {use!r} is {kinds}")
        sentence = f"no {what}; {nearest(use, self._usable(kind))}"
        if self.failures:
            names = ", ".join(sorted({failure.entry_point for failure in self.failures}))
            sentence += f" (plugins that failed to load: {names}; see `crosslayer plugins`)"
        return InputError(sentence)

    def _usable(self, kind: str) -> list[str]:
        names = list(self._by_kind[kind])
        for name, found in self._by_kind[kind].items():
            names += [f"{name}:{preset}" for preset in found.component.presets]
        return names

    def find(self, name: str) -> tuple[Registered, ...]:
        """Every component of this name or preset, of any kind. InputError with the nearest name."""
        plain = name.partition(":")[0]
        found = [
            names.get(name) or names[plain]
            for names in self._by_kind.values()
            if name in names
            or (plain in names and name != plain and _has_preset(names[plain], name))
        ]
        if found:
            return tuple(found)
        from crosslayer.catalogue import package_of

        for kind in KINDS:
            if package_of(kind, plain) is not None or plain in self._by_kind[kind]:
                self.get(kind, name)  # raises the sentence for exactly this kind
        known = [usable for kind in KINDS for usable in self._usable(kind)]
        raise InputError(f"no component {name!r}; {nearest(name, known)}")

    def parameters(self, kind: str, use: str, values: Mapping[str, Any]) -> BaseModel | None:
        """The validated parameters: `values` as TOML gives them, defaults filled in.

        Raises `crosslayer.parameters.ParameterErrors` with every problem at once.
        """
        from crosslayer.parameters import ParameterErrors, validate

        found = self.get(kind, use)
        model = self.params_model(found)
        owner = f"{kind_label(kind)} {found.component.name!r}"
        if model is None:
            if values:
                problems = tuple(((key,), "takes no parameters") for key in values)
                raise ParameterErrors(owner, problems)
            return None
        return validate(model, values, owner, preset=_preset_of(found, use))

    def default_parameters(self, kind: str, use: str) -> dict[str, Any]:
        """The parameters that have a default, as JSON values; the preset of `use` is one."""
        from crosslayer.parameters import defaults

        found = self.get(kind, use)
        model = self.params_model(found)
        preset = _preset_of(found, use)
        return (defaults(model) if model else {}) | ({"preset": preset} if preset else {})

    def schema(self, kind: str, use: str) -> tuple[Parameter, ...]:
        """Every parameter with type, default, bounds and meaning."""
        from crosslayer.parameters import describe

        model = self.params_model(self.get(kind, use))
        return describe(model) if model else ()

    def params_model(self, found: Registered) -> type[BaseModel] | None:
        """The class of a component's parameters. DependencyError where it cannot be imported."""
        if found.component.params is None:
            return None
        what = f"{kind_label(found.kind)} {found.component.name!r}: its parameters"
        model: type[BaseModel] = load(found.component.params, what, found.component.install)
        return model

    def build(self, kind: str, use: str, values: Mapping[str, Any]) -> object:
        """The component itself, made from its parameters.

        Raises ParameterErrors; DependencyError, naming component, module and install line, where
        something that it needs cannot be imported; ComponentError where its factory fails.
        """
        found = self.get(kind, use)
        parameters = self.parameters(kind, use, values)
        component = found.component
        what = f"{kind_label(kind)} {component.name!r}"
        for module in component.needs:
            if importlib.util.find_spec(module) is None:
                raise missing_module(what, module, component.install)
        factory = load(component.factory, what, component.install)
        try:
            return factory() if parameters is None else factory(parameters)
        except CrosslayerError:
            raise
        except ModuleNotFoundError as error:
            raise missing_module(what, error.name or str(error), component.install) from error
        except Exception as error:
            raise ComponentError(f"{what} could not be built: {one_line(error)}") from error


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _has_preset(found: Registered, use: str) -> bool:
    return use.partition(":")[2] in found.component.presets


def _preset_of(found: Registered, use: str) -> str | None:
    return None if use == found.component.name else use.partition(":")[2]
