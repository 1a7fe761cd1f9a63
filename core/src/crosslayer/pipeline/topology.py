"""[network] to a Topology."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from crosslayer.errors import InputError
from crosslayer.pipeline.schema import Network

if TYPE_CHECKING:
    from crosslayer.contracts.network import Topology


def topology_of(network: Network | None, folder: Path) -> Topology | None:
    """The topology of a file (relative to `folder`) or of inline links. Errors: InputError."""
    if network is None:
        return None
    from crosslayer.contracts.network import Topology

    if network.topology is not None:
        path = folder / network.topology
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise InputError(
                f"there is no topology file {network.topology!r} (looked in {folder})"
            ) from None
        return Topology.from_toml(text, network.topology)
    links = network.links or []
    ends = [str(link[end]) for link in links for end in ("a", "b") if end in link]
    nodes = list(dict.fromkeys(ends)) or ["a"]
    try:
        return Topology.model_validate_json(
            json.dumps({"nodes": nodes, "links": links}), strict=True
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in ("network", *first["loc"]))
        raise InputError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
