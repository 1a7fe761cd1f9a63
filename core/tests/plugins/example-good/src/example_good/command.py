"""A command, imported only when it is called."""

from __future__ import annotations

import typer

from crosslayer.errors import InputError

app = typer.Typer()


@app.command()
def hello(name: str) -> None:
    """Say hello."""
    print(f"hello {name}")


@app.command()
def refuse() -> None:
    """Refuse the user's input."""
    raise InputError("example: this input cannot be used")


@app.command()
def crash() -> None:
    """Fail with an error that nobody expects."""
    raise ZeroDivisionError("a defect of the plugin")
