"""What `hermes-sim fit` does."""

from __future__ import annotations

from pathlib import Path

from crosslayer.cli_listing import print_json
from crosslayer.errors import InputError
from hermes_sim.step_models.fitted import FEATURES, read_steps
from hermes_sim.step_models.fitted import fit as fit_steps


def fit(steps: Path, out: Path, held_out: float, seed: int, as_json: bool) -> None:
    """Fit, write, print the held-out error."""
    if not 0 < held_out < 1:
        raise InputError(f"--held-out must lie between 0 and 1, not {held_out}")
    made = fit_steps(read_steps(steps), held_out=held_out, seed=seed)
    try:
        out.write_text(made.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
    rates = dict(zip(FEATURES, made.seconds_per, strict=True))
    if as_json:
        print_json({"file": str(out), "held_out_error": made.error, "seconds_per": rates})
        return
    print(f"{out}: {made.samples} steps; mean error on the others {made.error:.2%}")
    for name, value in rates.items():
        print(f"  {name:<16}{value:.4g} s")
