"""A good transform (2:4 by magnitude) and one that breaks each check."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from crosslayer.contracts.formats import NMSparsity
from crosslayer.contracts.model import Linear
from crosslayer.contracts.report import Metric

PATTERN = NMSparsity(2, 4)


class Toy:
    """Keeps the two largest of each four weights of the blocks' linears."""

    name = "good-transform"

    def __init__(self, params: Any) -> None:
        self.params = params

    def scores(self, weight: Any) -> Any:
        return np.abs(weight)

    def kept(self, weight: Any, mask: Any) -> Any:
        return np.where(mask, weight, np.float32(0))

    def transform(self, model: Any, context: Any) -> Any:
        spec = model.spec.map_parts(
            lambda block, part: (
                part.replace(sparsity="2:4")
                if isinstance(part, Linear) and part.rows == "tokens"
                else part
            )
        )
        how = "measured" if model.live is not None else "modelled"
        metric = Metric(
            name="density", value=0.5, unit="fraction", provenance=how, source="the pattern"
        )
        changed = model.replace(
            spec=spec,
            metrics=(metric,),
            history=(*model.history, (self.name, self.params.model_dump_json())),
        )
        if model.live is None:
            return changed
        live = model.live.copy()
        for _, part in spec.parts(Linear):
            if part.sparsity:
                weight = live.module.get_submodule(part.path).weight
                array = weight.detach().numpy()
                array[...] = self.kept(array, PATTERN.mask(self.scores(array)))
        file = context.output / "weights.npz"
        np.savez(
            file, **{name: value.detach().numpy() for name, value in live.module.named_parameters()}
        )
        return changed.replace(live=live, files={"weights": file})

    def restore(self, model: Any, files: Any, context: Any) -> Any:
        changed = self.transform(model.replace(live=None), context)
        live = model.live.copy()
        stored = np.load(files["weights"])
        for name, value in live.module.named_parameters():
            value.detach().numpy()[...] = stored[name]
        return changed.replace(live=live, files=files)


class ChangesItsInput(Toy):
    name = "changes-its-input"

    def transform(self, model: Any, context: Any) -> Any:
        result = super().transform(model, context)
        if model.live is not None:
            model.live.module.model.norm.weight.detach().numpy()[...] += 1
        return result


class DrawsGlobally(Toy):
    name = "draws-globally"

    def scores(self, weight: Any) -> Any:
        return np.random.default_rng(int.from_bytes(os.urandom(4), "big")).random(weight.shape)


class ShipsOtherWeights(Toy):
    name = "ships-other-weights"

    def kept(self, weight: Any, mask: Any) -> Any:
        return super().kept(weight, mask) * np.float32(1.001)


class NeedsTorchForASpec(Toy):
    name = "needs-torch-for-a-spec"

    def transform(self, model: Any, context: Any) -> Any:
        import torch

        assert torch.__version__
        return super().transform(model, context)


class ForgetsOnRestore(Toy):
    name = "forgets-on-restore"

    def restore(self, model: Any, files: Any, context: Any) -> Any:
        return super().restore(model, files, context).replace(live=model.live)


class WritesElsewhere(Toy):
    name = "writes-elsewhere"

    def transform(self, model: Any, context: Any) -> Any:
        stray(__name__)
        return super().transform(model, context)


class LeavesNoHistory(Toy):
    name = "leaves-no-history"

    def transform(self, model: Any, context: Any) -> Any:
        return super().transform(model, context).replace(history=model.history)


def stray(name: str) -> None:
    """Writes and removes a file where nothing may be written."""
    path = Path(tempfile.gettempdir()) / f"crosslayer-zoo-{name}-{os.getpid()}"
    path.write_text("stray", encoding="utf-8")
    path.unlink()
