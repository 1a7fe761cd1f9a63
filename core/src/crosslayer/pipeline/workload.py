"""The table [workload]: lengths, and the requests that simulators serve."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from crosslayer.contracts.calls import LONGEST_OUTPUT
from crosslayer.pipeline.table import Table

# What a run holds in memory at once: about 8 KB a request served, 0.1 to 0.3 KB a decode priced.
MOST_REQUESTS = 10**6
MOST_DECODES = 2**24

# What each kind of arrivals needs.
_ARRIVALS: dict[str, tuple[str, ...]] = {
    "poisson": ("requests", "rate_per_s"),
    "gamma": ("requests", "rate_per_s", "cv"),
    "on-off": ("requests", "rate_per_s", "on_s", "off_s"),
    "closed": ("requests", "users", "think_s"),
}


class Workload(Table):
    """[workload]: what latencies are modelled for, and the requests that simulators serve.

    prompt_tokens, output_tokens: lengths, the mean where there is a cv (prompt_cv, output_cv:
    lognormal); batch_size: sequences at once. Requests: `requests` of them, whose `arrivals` have
    the mean rate_per_s (gamma: with that `cv` of the gaps; on-off: on for on_s, off for off_s in
    the mean), or come from `users` who think for think_s (closed). lengths: a trace file whose
    pairs of lengths are drawn from. Or all from a `trace` file (its first `requests`), lengths and
    times: `format` if not what it looks like, `sort` if out of order.
    """

    prompt_tokens: int = Field(512, ge=1, le=2**31)
    output_tokens: int = Field(128, ge=1, le=LONGEST_OUTPUT)
    batch_size: int = Field(1, ge=1, le=2**20)
    prompt_cv: float = Field(0.0, ge=0, le=20)
    output_cv: float = Field(0.0, ge=0, le=20)
    arrivals: Literal["poisson", "gamma", "on-off", "closed"] | None = None
    requests: int | None = Field(None, ge=1, le=MOST_REQUESTS)
    rate_per_s: float | None = Field(None, gt=0, le=1e6)
    cv: float | None = Field(None, ge=0, le=20)
    on_s: float | None = Field(None, gt=0, le=1e7)
    off_s: float | None = Field(None, ge=0, le=1e7)
    users: int | None = Field(None, ge=1, le=10**6)
    think_s: float | None = Field(None, ge=0, le=1e7)
    lengths: str | None = Field(None, min_length=1)
    trace: str | None = Field(None, min_length=1)
    format: str | None = None
    sort: bool = False

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Workload:
        if self.batch_size * self.output_tokens > MOST_DECODES:
            raise ValueError(
                f"batch_size x output_tokens is {self.batch_size * self.output_tokens}, and a run "
                f"holds {MOST_DECODES} decodes at most in memory; lower one of them"
            )
        needs = _ARRIVALS.get(self.arrivals or "", ())
        lacking = [name for name in needs if getattr(self, name) is None]
        if lacking:
            raise ValueError(f"arrivals = {self.arrivals!r} needs {_quoted(lacking)}")
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        unused = sorted(given - set(self._takes()))
        if unused and self.trace is not None:
            raise ValueError(f"'trace' has its own times and lengths; leave out {_quoted(unused)}")
        if unused and self.arrivals is not None:
            what = f"arrivals = {self.arrivals!r}" + (" with 'lengths'" if self.lengths else "")
            raise ValueError(f"{what} has no use for {_quoted(unused)}")
        if unused:
            kinds = ", ".join(map(repr, _ARRIVALS))
            raise ValueError(
                f"{_quoted(unused)} belong to requests; add arrivals (one of {kinds}) or a trace"
            )
        return self

    def _takes(self) -> tuple[str, ...]:
        """The keys that mean something beside each other here."""
        lengths: tuple[str, ...] = ("prompt_tokens", "output_tokens")
        if self.trace is not None:
            return ("batch_size", "trace", "format", "sort", "requests")
        if self.arrivals is None:
            return ("batch_size", *lengths)
        lengths += ("prompt_cv", "output_cv")
        if self.lengths is not None:
            lengths = ("lengths", "format", "sort")
        return ("batch_size", "arrivals", *_ARRIVALS[self.arrivals], *lengths)

    def table(self) -> dict[str, Any]:
        """The table as a pipeline file has it, every default filled in."""
        values = {name: getattr(self, name) for name in self._takes()}
        return {name: value for name, value in values.items() if value is not None}


def _quoted(names: list[str]) -> str:
    return ", ".join(map(repr, names))
