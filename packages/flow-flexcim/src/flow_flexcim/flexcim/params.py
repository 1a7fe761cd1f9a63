"""Parameters of the accelerator `flexcim`; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat

from flow_flexcim.flexcim.technology import Constant

PRESETS = ("flexible", "dense", "fixed-2to4", "systolic")


class FlexCiMParams(BaseModel):
    """A chip of compute-in-memory macros, or a baseline with as many multipliers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    preset: Literal["flexible", "dense", "fixed-2to4", "systolic"] = Field(
        "flexible",
        description="flexible: sub-macros behind a distribution unit, N:M with N a power of two; "
        "dense: the same macro without it; fixed-2to4: a 4:1 selector in each cell; systolic: a "
        "dense weight-stationary array of as many multipliers.",
    )
    select_sharing: Literal["ideal", "per_cell_gating", "column_gating", "aligned_masks"] = Field(
        "per_cell_gating",
        description="The pair select of a row serves all its columns. per_cell_gating: columns "
        "that need another pair wait for another pass, cell by cell; column_gating: a pass serves "
        "the columns whose whole select vectors agree; aligned_masks: masks are made so that "
        "columns agree, which is taken for granted where masks are not known, and as column_gating "
        "where they are; ideal: every column has selectors of its own, paid in area and energy.",
    )
    weights: Literal["on_chip", "streamed"] = Field(
        "on_chip",
        description="on_chip: all weights are in a buffer beside the macros; streamed: they come "
        "from DRAM once for every op.",
    )
    as_int8: bool = Field(
        False,
        description="Price weights and activations in wider formats as 8-bit ones: quantizing them "
        "is somebody else's work, and its loss of quality is not counted.",
    )
    macros: int = Field(64, ge=1, le=1 << 20, description="Macros that work in parallel.")
    sub_macros: int = Field(4, ge=1, le=64, description="Sub-macros of a macro (S).")
    rows: int = Field(32, ge=1, le=4096, description="Rows of a sub-macro (R).")
    columns: int = Field(32, ge=1, le=4096, description="Columns of a sub-macro (C).")
    pairs: int = Field(
        4, ge=1, le=8, description="Activation pairs that a selector chooses from: M is at most "
        "twice this.",
    )  # fmt: skip
    input_cycles: int = Field(
        1, ge=1, le=8, description="Cycles an activation takes: 1 bit-parallel, 8 bit-serial."
    )
    write_rows: int = Field(
        1, ge=1, le=4096, description="Rows that are written a cycle when a tile is loaded."
    )
    clock_hz: float = Field(266e6, gt=0, le=1e11, description="Clock.")
    dram_bytes_per_s: float = Field(
        25.6e9, gt=0, le=1e14, description="Bandwidth of the DRAM that weights are streamed from."
    )
    constants: dict[Constant, NonNegativeFloat] = Field(
        default_factory=dict,
        description="Gate and memory constants in place of those in flexcim/technology.py, in its "
        "units, such as {volts = 0.8}.",
    )


class LayersParams(BaseModel):
    """What the layer tables of `flexcim` are of."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    tokens: int = Field(
        1, ge=1, le=1 << 24, description="Tokens that the model runs at once; 1 is a decode step."
    )
