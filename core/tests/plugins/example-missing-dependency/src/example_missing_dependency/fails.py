"""A component that cannot be made."""


class Fails:
    """Raises."""

    def __init__(self) -> None:
        raise ValueError("no device found")
