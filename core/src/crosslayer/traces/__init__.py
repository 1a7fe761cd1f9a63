"""Traces of requests: read, written, described, or made from arrival processes and lengths."""

from crosslayer.traces.formats import FORMATS
from crosslayer.traces.problems import Problem, TraceErrors
from crosslayer.traces.reading import format_name, read_trace
from crosslayer.traces.writer import left_out, write_trace

__all__ = [
    "FORMATS",
    "Problem",
    "TraceErrors",
    "format_name",
    "left_out",
    "read_trace",
    "write_trace",
]
