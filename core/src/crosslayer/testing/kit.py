"""How checks are named, chosen for a component, and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from crosslayer.errors import CrosslayerError, InputError
from crosslayer.kinds import RunContext
from crosslayer.registry import KINDS, Registered, Registry

SEED = 7


class CheckFailed(AssertionError):
    """A check found something; the message says what and the likely cause."""


@dataclass
class Subject:
    """The component under test with its parameters; results that several checks look at are made
    once.
    """

    registry: Registry
    kind: str
    use: str
    parameters: Mapping[str, Any]
    made: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def registered(self) -> Registered:
        """What discovery knows about the component."""
        return self.registry.get(self.kind, self.use)

    @cached_property
    def scratch(self) -> Path:
        """A folder that lives as long as the process."""
        self.made["folder"] = tempfile.TemporaryDirectory(prefix="crosslayer-check-")
        return Path(self.made["folder"].name).resolve()

    def build(self) -> Any:
        """A new instance of the component."""
        return self.registry.build(self.kind, self.use, self.parameters)

    def context(self, name: str, seed: int = SEED) -> RunContext:
        """A run context whose output folder is new."""
        output = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.scratch))
        return RunContext(seed=seed, output=output, threads=1)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of `make`, made the first time it is asked for."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def in_worker(self, code: str, **values: Any) -> Any:
        """Run code in a new process with `subject` (registry, kind, use, parameters) rebuilt from
        JSON.

        The code sets `result`, which comes back as JSON. Raises CheckFailed with the worker's last
        line.
        """
        setup = (
            "import json, sys\n"
            "given = json.loads(sys.stdin.read())\n"
            "from crosslayer.discovery import discover\n"
            f"{code}\n"
            "print('\\n' + json.dumps(result))\n"
        )
        given = {"kind": self.kind, "use": self.use, "parameters": dict(self.parameters)} | values
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "CROSSLAYER_PLUGINS": self.registered.origin.entry_point,
        }
        done = subprocess.run(
            [sys.executable, "-c", setup],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.scratch,
            check=False,
        )
        if done.returncode:
            raise CheckFailed(
                f"in a new process: {(done.stderr.strip().splitlines() or ['it died'])[-1]}"
            )
        return json.loads(done.stdout.strip().splitlines()[-1])


@dataclass(frozen=True)
class Check:
    """A named question to a component of some kinds."""

    name: str
    kinds: tuple[str, ...]
    function: Callable[[Subject], None]


CHECKS: list[Check] = []


def check(*kinds: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Register a check for components of these kinds (none named: of all)."""

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS.append(Check(function.__name__, kinds or KINDS, function))
        return function

    return register


@dataclass(frozen=True)
class BoundCheck:
    """A check of one component: call it; it raises CheckFailed. `str()` is its name."""

    check: Check
    subject: Subject

    def __call__(self) -> None:
        try:
            self.check.function(self.subject)
        except CheckFailed as failed:
            raise CheckFailed(
                f"{self.subject.use}: {self.check.name}: {failed}"
            ) from failed.__cause__

    def __str__(self) -> str:
        return f"{self.subject.use}-{self.check.name}"


@dataclass(frozen=True)
class CheckResult:
    """What one check said; message "" if it passed."""

    component: str
    kind: str
    check: str
    message: str = ""

    @property
    def passed(self) -> bool:
        """True if the check found nothing."""
        return not self.message


def checks_for(
    use: str,
    *,
    kind: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
) -> tuple[BoundCheck, ...]:
    """The checks for one component, ready to call.

    use: its name, with a preset if it has any. kind: only where two kinds share the name.
    parameters: what has no default. Errors: InputError for a name that is not registered.
    """
    from crosslayer.testing import accelerators, listing, models, serving, transforms  # noqa: F401 (they register)

    if registry is None:
        from crosslayer.discovery import discover

        registry = discover()
    found = registry.find(use)
    kinds = [registered.kind for registered in found if kind in (None, registered.kind)]
    if not kinds:
        raise InputError(f"{use!r} is no {kind}; it is a {found[0].kind}")
    bound = []
    for each in kinds:
        subject = Subject(registry, each, _with_preset(registry, each, use), dict(parameters or {}))
        bound += [BoundCheck(check, subject) for check in CHECKS if each in check.kinds]
    return tuple(bound)


def _with_preset(registry: Registry, kind: str, use: str) -> str:
    presets = registry.get(kind, use).component.presets
    return f"{use}:{presets[0]}" if presets and ":" not in use else use


def check_plugin(
    name: str, *, parameters: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> tuple[CheckResult, ...]:
    """Run every check on a component and return what each said; a crash of the component is a
    finding too.
    """
    bound = checks_for(name, parameters=parameters, registry=registry)
    return tuple(run_check(one) for one in bound)


def run_check(bound: BoundCheck) -> CheckResult:
    """What one check says."""
    message = ""
    try:
        bound()
    except CheckFailed as failed:
        message = str(failed)
    except CrosslayerError as error:
        message = f"{bound.check.name}: {error}"
    except Exception as error:
        message = f"{bound.check.name}: {type(error).__name__}: {error}"
    return CheckResult(bound.subject.use, bound.subject.kind, bound.check.name, message)
