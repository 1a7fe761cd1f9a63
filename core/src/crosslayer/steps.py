"""How a step of a run happens: cached or made, timed, its files kept, its failures named."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from crosslayer.contracts.report import Report, WrittenFile
from crosslayer.errors import ComponentError, CrosslayerError, InputError
from crosslayer.kinds import RunContext
from crosslayer.progress import Progress
from crosslayer.results import Step
from crosslayer.rundir import slug
from crosslayer.stepcache import StepCache, sha256_file

T = TypeVar("T")
RECORDING = "calls"  # the written file of a report from which its calls can be replayed


class Steps:
    """Runs steps that write below `folder`/files; keeps what each took and what it reports.

    reports: each with the name that tells equal names of metrics apart.
    """

    def __init__(self, folder: Path, seed: int, threads: int, progress: Progress) -> None:
        self.folder, self.seed, self.threads, self.progress = folder, seed, threads, progress
        self.cache = StepCache(progress=progress)
        self.done: list[Step] = []
        self.reports: list[tuple[str, Report]] = []

    def context(self, output: Path, unfinished: Path | None = None) -> RunContext:
        output.mkdir(parents=True, exist_ok=True)
        return RunContext(
            self.seed, output, self.progress, threads=self.threads, unfinished=unfinished
        )

    def report(
        self, label: str, name: str, key: str, make: Callable[[RunContext], Report],
        after: Callable[[Report], Report] | None = None,
        outside: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """A step whose result is a report; its files are named from its own output folder. after:
        what becomes of the result, cached or not, which is not cached itself. outside: endpoints
        that it may ask, by name. If it did, its result is kept only with a recording of the calls,
        and says when they were made.
        """
        endpoints = outside or {}
        before = {name: one.usage().attempts for name, one in endpoints.items()}

        def asked() -> list[str]:
            return [name for name, one in endpoints.items() if one.usage().attempts > before[name]]

        def keep(report: Report) -> bool:
            recorded = any(file.name == RECORDING for file in report.files)
            always = any(getattr(endpoints[name], "asks_always", False) for name in asked())
            return not asked() or (recorded and not always)

        def dump(report: Report, _: Path) -> dict[str, Any]:
            when = datetime.now(UTC).isoformat(timespec="seconds")
            return {"report": report.to_json(), "asked": asked(), "asked_at": when}

        def load(body: Mapping[str, Any], _: Path) -> Report:
            report = Report.from_json(body["report"])
            if not body["asked"]:
                return report
            note = (
                f"{label} is from the step cache: {', '.join(body['asked'])} answered until"
                f' {body["asked_at"]}, recorded in {RECORDING}.jsonl; ask = "always" asks anew.'
            )
            self.progress.say(note)
            return report.replace(notes=(*report.notes, note))

        made, output = self.cached(label, key, make, dump, load, keep)
        if after is not None:
            with naming(label):
                made = after(made)
        self.add(name, made, output)

    def add(self, name: str, report: Report, output: Path) -> None:
        """Keeps a report, its files named from the run directory."""
        files = []
        for file in report.files:
            path = output / below(output / file.path, output, name)
            if not path.is_file():
                raise ComponentError(
                    f"step {name}: reports a file {file.path!r} that it did not write"
                )
            place = path.relative_to(self.folder).as_posix()
            files.append(
                file.replace(path=place, sha256=sha256_file(path), name=f"{name}/{file.name}")
            )
        self.reports.append((name, report.replace(files=tuple(files))))
        for folder in (output, output.parent):  # nothing written: no folder for it
            with suppress(OSError):
                folder.rmdir()

    def file_of(self, name: str, file: str) -> WrittenFile:
        """A file by its name in the last report of that name. Errors: InputError."""
        report = next(report for known, report in reversed(self.reports) if known == name)
        files = {one.name.removeprefix(f"{name}/"): one for one in report.files}
        if file not in files:
            wrote = f"it wrote {', '.join(map(repr, files))}" if files else "it wrote none"
            raise InputError(f"step {name!r} wrote no file {file!r}; {wrote}")
        return files[file]

    def cached(
        self,
        label: str,
        key: str,
        make: Callable[[RunContext], T],
        dump: Callable[[T, Path], dict[str, Any]],
        load: Callable[[Mapping[str, Any], Path], T],
        keep: Callable[[T], bool] = lambda _: True,
    ) -> tuple[T, Path]:
        """The step's result, from the cache if it is there, and its output folder. keep: whether a
        result that was made goes into the cache.
        """
        output = self._output(label)
        found = self._known(label, key, load, output)
        if found is None:
            with self.cache.making(key, label):
                found = self._known(label, key, load, output)  # another run may have made it
                if found is None:
                    with self.step(label), self.cache.unfinished(key) as folder:
                        made = make(self.context(output, folder))
                        if keep(made):
                            self.cache.put(key, dump(made, output), output)
                    return made, output
        return found[0], output

    def _known(
        self, label: str, key: str, load: Callable[[Mapping[str, Any], Path], T], output: Path
    ) -> tuple[T] | None:
        """The step's result if the cache has it whole, its files put below `output`."""
        entry = self.cache.get(key, label)
        if entry is None:
            return None
        try:
            entry.put_files(output)
            found = load(entry.body, output)
        except Exception as error:
            self.cache.discard(key, label, f"{type(error).__name__}: {error}")
            shutil.rmtree(output, ignore_errors=True)
            return None
        with self.step(label, cached=True):
            return (found,)

    def _output(self, label: str) -> Path:
        """A folder below `files` that no other step has."""
        output = self.folder / "files" / slug(label)
        while output.exists():
            output = output.with_name(f"{output.name}-2")
        output.mkdir(parents=True)
        return output

    @contextmanager
    def step(self, label: str, cached: bool = False) -> Iterator[None]:
        start = time.perf_counter()
        with naming(label):
            yield
        seconds = time.perf_counter() - start
        self.done.append(Step(label, seconds, cached))
        self.progress.say(f"{label}: {'cached' if cached else f'{seconds:.1f} s'}")


@contextmanager
def naming(label: str) -> Iterator[None]:
    """Failures inside name the step."""
    try:
        yield
    except CrosslayerError as error:
        if isinstance(error, ComponentError) and str(error).startswith("step "):
            raise
        named = ComponentError(f"step {label}: {error}")
        named.exit_code = error.exit_code if error.exit_code in (2, 3) else 4
        raise named from error
    except Exception as error:
        raise ComponentError(f"step {label} failed: {type(error).__name__}: {error}") from error


def below(path: Path, output: Path, label: str) -> str:
    """A written file's path from the step's output folder. Errors: ComponentError for one that is
    not in it.
    """
    resolved, root = Path(path).resolve(), output.resolve()
    if not resolved.is_relative_to(root):
        raise ComponentError(f"step {label}: wrote {path}, which is outside its output folder")
    return resolved.relative_to(root).as_posix()
