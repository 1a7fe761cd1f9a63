"""Every developer task. `./ci/nox -l` lists them; start nox through `./ci/nox`, which sets it up.

Environments: `tests` puts one package and the core's wheel beside a shared set of other people's
distributions (ours never go in there, so an undeclared sibling cannot be imported); `together`
installs everything for real. Arguments after `--` go to pytest: `./ci/nox -s tests -- -k roofline`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "ci"))

from catalogue import (  # noqa: E402
    CORE,
    Package,
    by_name,
    dependencies,
    needs_of_tests,
    read_catalogue,
    third_party,
    wheel_name,
)

if "CROSSLAYER_CI_STATE" not in os.environ:
    raise SystemExit("noxfile.py: start it with ./ci/nox, which sets up what the sessions need.")
STATE = Path(os.environ["CROSSLAYER_CI_STATE"])
WHEELS = Path(os.environ["CROSSLAYER_CI_WHEELS"])
CACHE = Path(os.environ["CROSSLAYER_CACHE_DIR"])

PACKAGES = read_catalogue()
EVERYTHING = (CORE, *PACKAGES)
TEST_TOOLS = ["pytest", "pytest-xdist", "hypothesis"]
BUDGET_S = {
    "tests(core)": 300,
    "tests": 150,
    "together": 360,
    "demo": 240,
    "scaffold": 90,
}  # on 2 cores

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True
nox.options.sessions = [
    "lint",
    "typecheck",
    "contracts",
    "wheels",
    "tests",
    "together",
    "demo",
    "scaffold",
    "docs",
]

Session = Callable[..., None]


def timed(function: Session) -> Session:
    """The session, which says at its end how long it took and what it may take."""

    @functools.wraps(function)
    def run(session: nox.Session, **parameters: str) -> None:
        start = time.monotonic()
        try:
            function(session, **parameters)
        finally:
            ids = "".join(f"({value})" for value in parameters.values())
            name = function.__name__ + ids
            budget = BUDGET_S.get(name, BUDGET_S.get(function.__name__))
            took = time.monotonic() - start
            of = f" of the {budget} s it may take" if budget else ""
            late = " - TOO LONG" if budget and took > budget else ""
            session.log(f"{name}: {took:.0f} s{of}{late}")

    return run


@nox.session(tags=["static"], reuse_venv=True)
@timed
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install("-q", "ruff")
    os.environ["RUFF_CACHE_DIR"] = str(STATE / "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(tags=["static"], reuse_venv=True)
@timed
def typecheck(session: nox.Session) -> None:
    """mypy, strict, on the core, every package and the checks of ci/."""
    session.install("-q", "mypy", "pytest", *dependencies(CORE))
    flags = ("--config-file", ".mypy.ini", "--cache-dir", str(STATE / "mypy"))
    sources = os.pathsep.join(str(Path(package.path, "src")) for package in EVERYTHING)
    modules = [flag for package in EVERYTHING for flag in ("-p", package.module)]
    session.run("mypy", *flags, *modules, env={"MYPYPATH": sources})
    checks = sorted(str(path) for path in Path("ci").glob("*.py"))
    session.run("mypy", *flags, *checks, env={"MYPYPATH": f"ci{os.pathsep}{sources}"})


@nox.session(tags=["static"], reuse_venv=True)
@timed
def contracts(session: nox.Session) -> None:
    """Who may import whom (import-linter), and that every import is declared (deptry)."""
    session.install("-q", "import-linter", "deptry")
    session.run("python", "ci/check_imports.py", str(STATE / "importlinter.ini"))
    sources = os.pathsep.join(str(ROOT / package.path / "src") for package in EVERYTHING)
    session.run(
        "lint-imports",
        *("--config", str(STATE / "importlinter.ini"), "--cache-dir", str(STATE / "imports")),
        env={"PYTHONPATH": sources},
    )
    for package in EVERYTHING:
        with session.chdir(ROOT / package.path):
            names = ("--package-module-name-map", "pyyaml=yaml")  # where the two differ
            session.run("deptry", "src", "--known-first-party", package.module, *names, silent=True)


@nox.session(venv_backend="none")
@timed
def wheels(session: nox.Session) -> None:
    """Build the wheel of the core and of each package."""
    for wheel in built(session, EVERYTHING):
        session.log(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} KiB")


@nox.session
@nox.parametrize(
    "name", [nox.param(name, id=name) for name in ("core", *(p.name for p in PACKAGES))]
)
@timed
def tests(session: nox.Session, name: str) -> None:
    """The tests of the core, or of one package beside the core and nothing else of ours."""
    package = by_name(name)
    ours = [CORE] if package is CORE else [CORE, package]
    if package.torch:
        install_beside_shared(session, ours)
    else:
        install_for_real(session, ours)
    session.run("python", "-I", "ci/check_alone.py", *(one.module for one in ours))
    run_pytest(session, str(Path(package.path, "tests")))


@nox.session
@timed
def together(session: nox.Session) -> None:
    """Everything of ours in one real environment: pip check, ci/tests, the pipelines."""
    install_for_real(session, EVERYTHING)
    session.run("python", "-m", "pip", "check")
    run_pytest(session, "ci/tests")


@nox.session
@timed
def demo(session: nox.Session) -> None:
    """The main job on a real model: pipelines/quickstart.toml, its table and the report's path."""
    install_beside_shared(session, EVERYTHING)
    home = ROOT if os.access(ROOT, os.W_OK) else STATE
    with session.chdir(home):
        session.run("crosslayer", "run", str(ROOT / "pipelines" / "quickstart.toml"))


@nox.session
@timed
def scaffold(session: nox.Session) -> None:
    """`crosslayer new`: a package of each kind installed, tested, linted, type-checked, run."""
    session.install("-q", "hatchling", "mypy", "ruff")
    install_beside_shared(session, [CORE])
    session.run("python", "ci/scaffold.py", session.create_tmp(), str(STATE))


@nox.session
@timed
def docs(session: nox.Session) -> None:
    """The generated parts of README and docs are fresh; catalogue, pyprojects and plugins agree."""
    install_beside_shared(session, EVERYTHING)
    session.run("python", "ci/check_catalogue.py", *session.posargs)
    write = "--write" in session.posargs
    session.run("python", "ci/reference.py", *([] if write else ["--check"]))


@nox.session(default=False)
@timed
def bench(session: nox.Session) -> None:
    """By hand: the benchmarks of one package, `./ci/nox -s bench -- flow-flexcim`."""
    names = session.posargs or [package.name for package in PACKAGES]
    packages = [by_name(name) for name in names]
    install_beside_shared(session, EVERYTHING)
    for package in packages:
        for script in sorted(Path(package.path, "benchmarks").glob("*.py")):
            session.run("python", str(script))


@nox.session(default=False)
@timed
def compat(session: nox.Session) -> None:
    """By hand: thinkv's tests under the oldest transformers it declares; the pin is the newest."""
    package = by_name("thinkv")
    (declared,) = (need for need in dependencies(package) if need.startswith("transformers>="))
    oldest = declared.removeprefix("transformers>=").split(",")[0] + ".0"
    # Of the pins all but transformers' own and those of the two that it caps.
    pins = (WHEELS / "constraints.txt").read_text(encoding="utf-8")
    free = ("transformers==", "tokenizers==", "huggingface_hub==")
    kept = [line for line in pins.splitlines() if not line.startswith(free)]
    constraints = Path(session.create_tmp(), "constraints.txt")
    constraints.write_text("\n".join([*kept, f"transformers=={oldest}"]), encoding="utf-8")
    wheels = [str(wheel) for wheel in built(session, [CORE, package])]
    extras = f"[{','.join(package.extras)}]"
    session.install(
        *("-q", wheels[0], wheels[1] + extras, *TEST_TOOLS, *needs_of_tests(package)),
        env={"PIP_CONSTRAINT": constraints.as_uri()},
    )
    link(session, [ROOT / "ci" / "pytest_plugin"])
    run_pytest(session, str(Path(package.path, "tests")))


@nox.session(default=False, venv_backend="none")
@timed
def dev(session: nox.Session) -> None:
    """By hand: .venv with everything installed to be edited in place."""
    home = ROOT / ".venv"
    python = home / "bin" / "python"
    if not python.exists():
        session.run(sys.executable, "-m", "virtualenv", "-q", str(home), external=True)
    tools = [*TEST_TOOLS, "ruff", "mypy", "hatchling", "editables"]
    pip = [str(python), "-m", "pip", "install", "-q"]
    session.run(*pip, *tools, *all_third_party(EVERYTHING), external=True)
    # Without an index, so nothing of ours can come from elsewhere, and without the constraints,
    # which name the wheels.
    local = ["--no-index", "--no-deps", "--no-build-isolation"]
    editable = [part for package in EVERYTHING for part in ("-e", str(ROOT / package.path))]
    session.run(*pip, *local, *editable, external=True, env={"PIP_CONSTRAINT": ""})
    session.log(f"ready: source {home}/bin/activate")


# What the sessions stand on.


def built(session: nox.Session, packages: Sequence[Package]) -> list[Path]:
    """The wheels of the packages, built once for the sources as they are.

    WHEELS is named after a hash of the sources, so a wheel that is there is the right one.
    """
    paths = [WHEELS / wheel_name(package) for package in packages]
    with locked(WHEELS / "lock"):
        for package, path in zip(packages, paths, strict=True):
            if not path.exists():
                partial = WHEELS / f"partial-{package.name}"
                with session.chdir(ROOT / package.path):
                    build = ("-m", "hatchling", "build", "-t", "wheel", "-d", str(partial))
                    session.run(sys.executable, *build, external=True, silent=True)
                (partial / path.name).replace(path)
                shutil.rmtree(partial)
    return paths


def install_for_real(session: nox.Session, packages: Sequence[Package]) -> None:
    """Wheels of ours and, from the index, all that they ask for."""
    wanted = []
    for package, wheel in zip(packages, built(session, packages), strict=True):
        extras = f"[{','.join(package.extras)}]" if package.extras else ""
        wanted.append(f"{wheel}{extras}")
    groups = [need for package in packages for need in needs_of_tests(package)]
    session.install("-q", *wanted, *TEST_TOOLS, *groups)
    link(session, [ROOT / "ci" / "pytest_plugin"])


def install_beside_shared(session: nox.Session, packages: Sequence[Package]) -> None:
    """Wheels of ours alone; the distributions of others come from the shared environment."""
    site = shared_site(session)
    wheels = [str(wheel) for wheel in built(session, packages)]
    session.install("-q", "--no-deps", *wheels)
    link(session, [site, ROOT / "ci" / "pytest_plugin"])


def shared_site(session: nox.Session) -> Path:
    """The site-packages of the environment that the torch sessions share, made on first use.

    It lies in the cache, named after the requirements, the pins and the Python it holds; a second
    run waits for the first to finish it, and only a finished one is used.
    """
    wanted = [*TEST_TOOLS, *all_third_party([p for p in EVERYTHING if p.torch])]
    pins = (ROOT / "ci" / "constraints.txt").read_text(encoding="utf-8")
    key = hashlib.sha256("\n".join([*wanted, pins, sys.version, sys.base_prefix]).encode())
    home = CACHE / "ci" / f"shared-{key.hexdigest()[:16]}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with locked(home.with_suffix(".lock")):
        if not (home / "complete").exists():
            session.log(f"setting up {home}, once for all sessions (about a minute)")
            shutil.rmtree(home, ignore_errors=True)
            session.run(sys.executable, "-m", "virtualenv", "-q", str(home), external=True)
            python = str(home / "bin" / "python")
            session.run(python, "-m", "pip", "install", "-q", *wanted, external=True)
            (home / "complete").touch()
    return site_packages(home)


def all_third_party(packages: Sequence[Package]) -> list[str]:
    """The requirements of several packages, each once."""
    return sorted({need for package in packages for need in third_party(package)})


def link(session: nox.Session, folders: Sequence[Path]) -> None:
    """Make folders importable in the session's environment, after what is installed in it."""
    site = site_packages(Path(session.virtualenv.location))
    lines = "".join(f"{folder}\n" for folder in folders)
    (site / "crosslayer-ci.pth").write_text(lines, encoding="utf-8")


def site_packages(home: Path) -> Path:
    """The site-packages of an environment."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return home.resolve() / "lib" / version / "site-packages"


def run_pytest(session: nox.Session, folder: str) -> None:
    """pytest on one folder, in two processes, with nothing written into the clone."""
    session.run(
        *("python", "-P", "-m", "pytest", "-p", "crosslayer_ci", "--durations=5", "-n", "2"),
        *("-o", f"cache_dir={STATE / 'pytest'}", folder, *session.posargs),
        env={
            "HYPOTHESIS_STORAGE_DIRECTORY": str(STATE / "hypothesis"),
            "OMP_NUM_THREADS": "1",  # a core for each of the two processes
        },
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the lock ends with the process at the latest."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
