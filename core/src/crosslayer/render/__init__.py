"""How a run's report is shown: figures, one HTML file, a table on the terminal.

`values` turns numbers into text, `figures` draws, `html` writes the page, `terminal` prints.
Nothing heavy is imported before something is drawn.
"""

from __future__ import annotations

from crosslayer.render.values import format_value

__all__ = ["format_value"]
