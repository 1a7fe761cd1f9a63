"""Must not even be imported."""

raise AssertionError("imported in spite of its requirement")
