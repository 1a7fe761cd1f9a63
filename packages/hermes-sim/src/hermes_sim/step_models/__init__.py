"""What a step takes: measured profiles, a regression, accelerators through the lowering."""
