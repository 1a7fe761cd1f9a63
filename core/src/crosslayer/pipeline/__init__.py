"""Pipeline files: what they say (`Pipeline`), what is wrong with them (`check_file`), what a run
records (`lock`).
"""

from __future__ import annotations

from crosslayer.pipeline.check import check_file, check_pipeline
from crosslayer.pipeline.schema import Pipeline
from crosslayer.pipeline.source import PipelineErrors, Problem

__all__ = ["Pipeline", "PipelineErrors", "Problem", "check_file", "check_pipeline"]
