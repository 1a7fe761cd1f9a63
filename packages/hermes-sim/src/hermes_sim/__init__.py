"""hermes-sim: a discrete-event simulator of multi-stage LLM serving (arXiv 2504.09775)."""
