"""The kinds that `crosslayer new` knows, and what the toy of each is called."""

from __future__ import annotations

from dataclasses import dataclass

from crosslayer.errors import InputError, nearest

NUMPY, PYDANTIC = "numpy>=2.0,<3", "pydantic>=2.9,<3"


@dataclass(frozen=True, slots=True)
class Toy:
    """One kind's package. stem: its technique's module, of the class suffix. extra: of crosslayer.

    Its templates are in templates/<kind>/, beside templates/common/.
    """

    kind: str
    stem: str
    suffix: str
    hook: str
    summary: str
    needs: tuple[str, ...]
    extra: str = ""


TOYS = {
    toy.kind: toy
    for toy in (
        Toy(
            kind="model-transform",
            stem="transform",
            suffix="Transform",
            hook="crosslayer_model_transforms",
            summary="Magnitude pruning to an N:M pattern",
            needs=(NUMPY, PYDANTIC, "safetensors>=0.5,<1", "torch>=2.6,<3"),
            extra="torch",
        ),
        Toy(
            kind="serving-policy",
            stem="policy",
            suffix="Policy",
            hook="crosslayer_serving_policies",
            summary="Majority vote over samples of one model",
            needs=(PYDANTIC,),
        ),
        Toy(
            kind="simulator",
            stem="simulator",
            suffix="Simulator",
            hook="crosslayer_simulators",
            summary="One server, first come first served",
            needs=(NUMPY, PYDANTIC),
        ),
        Toy(
            kind="accelerator-model",
            stem="accelerator",
            suffix="Accelerator",
            hook="crosslayer_accelerator_models",
            summary="A roofline of two numbers: arithmetic rate and bandwidth",
            needs=(NUMPY, PYDANTIC),
        ),
    )
}


def toy_of(kind: str) -> Toy:
    """The toy of a kind. InputError with the nearest one."""
    if kind not in TOYS:
        raise InputError(f"no kind {kind!r} of package; {nearest(kind, TOYS)}")
    return TOYS[kind]
