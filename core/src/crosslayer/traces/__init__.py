"""Traces of requests: read, written, described, or made from arrival processes and lengths."""

from crosslayer.traces.arrivals import gamma, on_off, on_off_cv, poisson
from crosslayer.traces.closed_loop import ClosedLoop, serve_closed
from crosslayer.traces.formats import FORMATS
from crosslayer.traces.lengths import empirical, independent, lognormal
from crosslayer.traces.problems import Problem, TraceErrors
from crosslayer.traces.reading import format_name, read_trace
from crosslayer.traces.statistics import TraceStatistics, describe
from crosslayer.traces.workload import requests_of
from crosslayer.traces.writer import left_out, write_trace

__all__ = [
    "FORMATS",
    "ClosedLoop",
    "Problem",
    "TraceErrors",
    "TraceStatistics",
    "describe",
    "empirical",
    "format_name",
    "gamma",
    "independent",
    "left_out",
    "lognormal",
    "on_off",
    "on_off_cv",
    "poisson",
    "read_trace",
    "requests_of",
    "serve_closed",
    "write_trace",
]
