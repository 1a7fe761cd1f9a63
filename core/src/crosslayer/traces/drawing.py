"""The figures of a trace in one SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from crosslayer.contracts.report import Figure
from crosslayer.errors import InputError

_NAMESPACE = "http://www.w3.org/2000/svg"


def write_svg(figures: Sequence[Figure], path: Path) -> None:
    """Draw the figures one below the other. Errors: InputError for a place that is no .svg file or
    cannot be written.
    """
    from crosslayer.render.figures import to_svg

    if path.suffix != ".svg":
        raise InputError(f"{path}: figures are written as SVG; give a name that ends in .svg")
    ElementTree.register_namespace("", _NAMESPACE)
    drawings = [ElementTree.fromstring(to_svg(figure)) for figure in figures]
    width, top = 0.0, 0.0
    for drawing in drawings:
        drawing.set("y", f"{top:g}")
        width = max(width, float(drawing.get("width", "0")))
        top += float(drawing.get("height", "0"))
    whole = ElementTree.Element(
        f"{{{_NAMESPACE}}}svg", {"viewBox": f"0 0 {width:g} {top:g}", "width": f"{width:g}"}
    )
    whole.set("height", f"{top:g}")
    whole.extend(drawings)
    try:
        path.write_text(ElementTree.tostring(whole, encoding="unicode"), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
