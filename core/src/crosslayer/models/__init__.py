"""Models that ship with the core: shapes of well-known models as data, one config.json a file."""
