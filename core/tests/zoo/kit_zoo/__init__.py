"""A zoo for the conformance kit: one good component a kind, and one broken component a check."""
