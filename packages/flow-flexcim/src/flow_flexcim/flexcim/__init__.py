"""FlexCiM (arXiv 2504.14365): a digital SRAM compute-in-memory macro for many N:M patterns."""
