"""SLM-MUX (arXiv 2510.05077): several small models, the most self-consistent answers.

`algorithm` is the paper's Algorithm 1, `extract` finds answers, `search` selects models, `records`
and `replay` evaluate on recorded samples, `engine` and `server` ask live models, `policy` is the
component of crosslayer.
"""
