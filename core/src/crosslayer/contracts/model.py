"""What a model is made of: blocks of parts with shapes, formats, sparsity, paths of live modules.

The spec says how the model ships. Every number that is modelled anywhere starts from here, so
`parameters` equals the live module's count exactly and `weight_bytes` counts packed bits with
scales and indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from pydantic import Field, model_validator

from crosslayer.contracts.base import Value
from crosslayer.contracts.kv import AttentionClass, KVCurve
from crosslayer.contracts.parts import (
    Annotations,
    Attention,
    Conv,
    Elementwise,
    Embedding,
    Linear,
    MoE,
    Norm,
    Part,
    SelectiveScan,
)

__all__ = [
    "Annotations",
    "Attention",
    "AttentionClass",
    "Block",
    "Conv",
    "Elementwise",
    "Embedding",
    "KVCurve",
    "Linear",
    "MoE",
    "ModelSpec",
    "Norm",
    "Part",
    "SelectiveScan",
]


class Block(Value):
    """Parts in order; blocks run one after the other."""

    name: str = Field(min_length=1)
    parts: tuple[Part, ...] = Field(min_length=1)
    annotations: Annotations = ()

    @model_validator(mode="after")
    def _names_are_unique_and_known(self) -> Block:
        seen: set[str] = set()
        for part in self.parts:
            unknown = set(part.after or ()) - seen
            if unknown:
                raise ValueError(
                    f"{self.name}.{part.name}: after names {sorted(unknown)}, which do not "
                    "come before it"
                )
            if part.name in seen:
                raise ValueError(f"{self.name}: two parts are called {part.name!r}")
            seen.add(part.name)
        return self

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def weight_bytes(self) -> int:
        return sum(part.weight_bytes for part in self.parts)


class ModelSpec(Value):
    """A model: blocks in order (embedding, layers, head). hidden: width of the residual stream.

    source: where the shapes come from (a config.json, a repository, a paper).
    """

    name: str = Field(min_length=1)
    family: str = ""
    hidden: int = Field(gt=0)
    blocks: tuple[Block, ...] = Field(min_length=1)
    vocabulary: int | None = Field(default=None, gt=0)
    context_tokens: int | None = Field(default=None, gt=0)
    source: str = ""
    annotations: Annotations = ()

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any], *, name: str | None = None) -> ModelSpec:
        """The spec of a transformers config.json given as a plain dict; needs no transformers.

        Missing keys take that model type's defaults. Errors: InputError for an unknown model_type
        or a value that makes no model.
        """
        from crosslayer.contracts.hf_config import spec_from_config

        return spec_from_config(config, name=name)

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.blocks, self.annotations))

    def __hash__(
        self,
    ) -> int:  # computed once: simulators look the lowering of a spec up for every step
        return self._hash

    @cached_property
    def parameters(self) -> int:
        """Parameters of the live module, tied ones once."""
        return sum(block.parameters for block in self.blocks)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes the weights ship in: packed values, scales, zero points, N:M indices."""
        return sum(block.weight_bytes for block in self.blocks)

    @cached_property
    def attention_classes(self) -> tuple[AttentionClass, ...]:
        """The different attention loads, in order of first use."""
        return tuple(dict.fromkeys(part.attention_class for _, part in self.parts(Attention)))

    @cached_property
    def state_bytes(self) -> float:
        """Recurrent and convolution state of one sequence; it does not grow with the context."""
        return float(sum(part.state_bytes for _, part in self.parts(SelectiveScan, Conv)))

    def kv_bytes(self, prompt_tokens: int, generated_tokens: int) -> float:
        """KV cache of one sequence, all layers, with what the cache policies keep."""
        return float(
            sum(
                part.attention_class.live(prompt_tokens, generated_tokens)[1]
                for _, part in self.parts(Attention)
            )
        )

    def parts(self, *kinds: type[Any]) -> Iterator[tuple[str, Any]]:
        """(block name, part) of the given classes, experts' and routers' linears included; all if
        none given.
        """
        for block in self.blocks:
            for part in block.parts:
                if not kinds or isinstance(part, kinds):
                    yield block.name, part
                if isinstance(part, MoE):
                    for inner in (part.router, *part.expert, *part.shared):
                        if not kinds or isinstance(inner, kinds):
                            yield block.name, inner

    def map_parts(self, change: Any) -> ModelSpec:
        """A copy with `change(block, part)` in place of each part; MoE's inner parts go through it
        too.
        """
        blocks = []
        for block in self.blocks:
            parts = []
            for part in block.parts:
                if isinstance(part, MoE):
                    part = part.replace(
                        router=change(block, part.router),
                        expert=tuple(change(block, inner) for inner in part.expert),
                        shared=tuple(change(block, inner) for inner in part.shared),
                    )
                parts.append(change(block, part))
            blocks.append(block.replace(parts=tuple(parts)))
        return self.replace(blocks=tuple(blocks))
