"""How the pruned linears ship: one safetensors file of packed values and indices.

Tensors are the buffers of `Packed`, uint8, named `<path of the linear>.<buffer>` (`codes`,
`indices` ...; of a bias `<path>.bias.<buffer>`). The metadata entry `flow` is JSON: format,
version, and of every linear its shape, number format and pattern (null: dense). Header aside, the
file has exactly the bytes that the spec says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosslayer.contracts.formats import NMSparsity, Packed
from crosslayer.errors import InputError

FORMAT, VERSION = "flow-flexcim packed linears", 1


@dataclass(frozen=True)
class PackedLinear:
    """A linear as it ships: its weight, and its bias if it has one."""

    weight: Packed
    bias: Packed | None = None

    @property
    def pattern(self) -> NMSparsity | None:
        """The N:M pattern of the weight; None is dense."""
        return self.weight.sparsity

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return self.weight.nbytes + (self.bias.nbytes if self.bias else 0)


def write(file: Path, linears: Mapping[str, PackedLinear]) -> None:
    """Write the packed linears, by path."""
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[np.uint8]] = {}
    described = {}
    for path, linear in linears.items():
        described[path] = {"weight": _described(linear.weight)}
        tensors |= {f"{path}.{name}": data for name, data in linear.weight.buffers().items()}
        if linear.bias is not None:
            described[path]["bias"] = _described(linear.bias)
            tensors |= {f"{path}.bias.{name}": data for name, data in linear.bias.buffers().items()}
    head = {"format": FORMAT, "version": VERSION, "linears": described}
    file.parent.mkdir(parents=True, exist_ok=True)
    # One metadata entry: safetensors orders several as it likes, and equal runs write equal bytes.
    save_file(tensors, file, metadata={"flow": json.dumps(head, sort_keys=True)})


def read(file: Path) -> Iterator[tuple[str, PackedLinear]]:
    """(path, packed linear) one after the other; only one is in memory.

    InputError where the file is not one that `write` made, or is of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is no safetensors file that can be read: {error}") from error
    with opened as tensors:
        try:
            head = json.loads((tensors.metadata() or {}).get("flow", "null"))
        except ValueError:
            head = None
        if not isinstance(head, dict) or (head.get("format"), head.get("version")) != (
            FORMAT,
            VERSION,
        ):
            raise InputError(f"{file} does not hold packed linears of version {VERSION} of flow")
        names = set(tensors.keys())
        for path, entry in head["linears"].items():
            bias = entry.get("bias")
            yield (
                path,
                PackedLinear(
                    _packed(tensors, names, path, entry["weight"]),
                    None if bias is None else _packed(tensors, names, f"{path}.bias", bias),
                ),
            )


def _described(packed: Packed) -> dict[str, Any]:
    pattern = packed.sparsity
    return {
        "shape": packed.shape,
        "format": packed.format.name,
        "pattern": None if pattern is None else str(pattern),
    }


def _packed(tensors: Any, names: set[str], prefix: str, entry: Mapping[str, Any]) -> Packed:
    buffers = ("codes", "scales", "zero_points", "indices", "tensor_scale")
    found = {
        buffer: tensors.get_tensor(f"{prefix}.{buffer}")
        for buffer in buffers
        if f"{prefix}.{buffer}" in names
    }
    pattern = entry["pattern"]
    return Packed.from_buffers(
        found,
        tuple(entry["shape"]),
        entry["format"],
        None if pattern is None else NMSparsity.parse(pattern),
    )
