"""How a report's values look where they are shown: in a notebook, on a rich console, as data
frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from crosslayer.errors import DependencyError


class Shown:
    """Adds what notebooks (`_repr_html_`) and rich (`__rich__`) ask for.

    The renderer is looked up by name when a value is shown: contracts know nothing above them.
    """

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        text: str = import_module("crosslayer.render.notebook").html(self)
        return text

    def __rich__(self) -> Any:
        """What `rich.print` shows."""
        return import_module("crosslayer.render.terminal").renderable(self)


def data_frame(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], index: str | None = None
) -> Any:
    """Rows as a pandas DataFrame, `index` one of its columns. DependencyError without pandas."""
    try:
        import pandas
    except ImportError as error:
        raise DependencyError(
            "a data frame needs pandas, which is not installed; install the core with its extra"
            " 'data'"
        ) from error
    frame = pandas.DataFrame.from_records(list(rows), columns=list(columns))
    return frame if index is None else frame.set_index(index)
