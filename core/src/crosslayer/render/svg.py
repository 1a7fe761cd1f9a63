"""What matplotlib writes, made fit to stand in a page: unique ids, no style sheet, no metadata."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]*)\)")


def embeddable(drawing: str, *, prefix: str, label: str) -> str:
    """The same drawing as one `<svg>` element that can stand in a page beside others.

    Ids that something refers to get the prefix, the others go; matplotlib's style sheet, which
    would apply to the whole page, becomes two properties of the root. `label` is what a screen
    reader says.
    """
    root = ElementTree.fromstring(drawing)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}style", f"{_SVG}metadata"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.tail = None
        if element.tag != "text" and element.text and element.text.isspace():
            element.text = None
        if _XLINK in element.attrib:
            element.attrib["href"] = element.attrib.pop(_XLINK)
    used = _references(root)
    for element in root.iter():
        _rename(element, prefix, used)
    size = root.attrib["viewBox"].split()
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": root.attrib["viewBox"],
        "width": size[2],
        "height": size[3],
        "role": "img",
        "aria-label": label,
        "style": "stroke-linejoin: round; stroke-linecap: butt",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _references(root: ElementTree.Element) -> frozenset[str]:
    found: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "href":
                found.add(value.removeprefix("#"))
            found.update(_REFERENCE.findall(value))
    return frozenset(found)


def _rename(element: ElementTree.Element, prefix: str, used: frozenset[str]) -> None:
    name = element.attrib.pop("id", None)
    if name in used:
        element.attrib["id"] = f"{prefix}-{name}"
    for key, value in element.attrib.items():
        if key == "href":
            element.attrib[key] = f"#{prefix}-{value.removeprefix('#')}"
        elif key in ("clip-path", "style", "fill", "mask"):
            element.attrib[key] = _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
