"""The transformers side: a Cache whose sequences each follow a method, and the attention function.

`attach(model)` registers the attention function under NAME and switches the model to it; a cache
made by `new_cache` then holds the keys and values. The mask that transformers builds covers the new
tokens alone, because the cache tells it that the keys begin at the first new token: what is stored
is visible to every query, and padding is never stored. With any other cache, or none, the model
computes what it computes with SDPA, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from crosslayer.errors import InputError

NAME = "thinkv"


class Row(Protocol):
    """One sequence under some method: ThinKV or a baseline."""

    seen: int

    @property
    def physical(self) -> int: ...
    def begin(self, tokens: int) -> None: ...
    def attend(self, layer: int, q: Any, k: Any, v: Any, scaling: float) -> Any: ...
    def settle(self) -> None: ...
    def bytes(self) -> dict[str, int]: ...


class MethodCache(Cache):
    """A Cache of rows, one a sequence of the batch; `make_row(layers)` makes each.

    `get_seq_length` is the logical length: all tokens that went in, padding too. How many are alive
    is `physical` of each row.
    """

    def __init__(self, config: Any, make_row: Callable[[int], Row]) -> None:
        count = config.get_text_config(decoder=True).num_hidden_layers
        super().__init__(layers=[_LayerView(self, i) for i in range(count)])
        self.make_row = make_row
        self.rows: list[Row] = []
        self.logical = 0
        self.pending = 0  # tokens of the pass that runs
        self.due = 0  # the layer that attends next

    def expect(self, layer: int, batch: int, tokens: int) -> None:
        """A layer has new keys and is about to attend; layer 0 begins a pass.

        InputError where another attention than thinkv's saw the last ones: it looks at new tokens
        alone, and what the model says would be wrong without a sign of it.
        """
        if layer and self.due != layer:
            raise InputError(
                f"layer {self.due} of the model did not attend through thinkv; use this cache "
                "inside `with attach(model)`"
            )
        if layer:
            return
        if self.pending:
            raise InputError(
                "the last pass over this thinkv cache broke off, or did not attend through thinkv; "
                "make a new cache and use it inside `with attach(model)`"
            )
        if self.rows and len(self.rows) != batch:
            raise InputError(
                f"this cache holds {len(self.rows)} sequences and got a batch of {batch}; make a "
                "new cache for another batch"
            )
        self.pending = tokens

    def attend(self, layer: int, q: Any, k: Any, v: Any, mask: Any, scaling: float) -> Any:
        """One layer's attention of new tokens: q [batch, heads, t, dim] -> [batch, t, heads, dim].

        mask: boolean [batch, 1, t, t] over the new tokens, None: causal and nothing padded.
        """
        if not self.rows:
            self.rows = [self.make_row(len(self.layers)) for _ in range(q.shape[0])]
        out = torch.zeros_like(q)
        for i, row in enumerate(self.rows):
            valid = _valid(mask, i, q.shape[2])
            whole = valid is None
            queries, keys, values = (x[i] if whole else x[i][:, valid] for x in (q, k, v))
            if layer == 0:
                row.begin(queries.shape[1])
            if not queries.shape[1]:
                continue
            found = row.attend(layer, queries, keys, values, scaling)
            if whole:
                out[i] = found
            else:
                out[i][:, valid] = found
        self.due = (layer + 1) % len(self.layers)
        if self.due == 0:
            self.logical += self.pending
            self.pending = 0
        return out.transpose(1, 2).contiguous()

    def settle(self) -> None:
        """Do what is due between passes; reports call it, and so does the next pass."""
        for row in self.rows:
            row.settle()

    def bytes(self) -> dict[str, int]:
        """Allocated bytes by kind, all sequences and layers."""
        total: dict[str, int] = {}
        for row in self.rows:
            for kind, size in row.bytes().items():
                total[kind] = total.get(kind, 0) + size
        return total

    def reorder_cache(self, beam_idx: Any) -> None:
        """Beams would share and split quantised blocks; refused."""
        raise InputError("thinkv caches one continuation a sequence; use num_beams=1")

    def crop(self, *_: Any, **__: Any) -> None:
        """Evicted tokens cannot come back; refused."""
        raise InputError(
            "a thinkv cache cannot be cropped, because what it evicted is gone; assisted decoding "
            "and other ways of taking tokens back need another cache"
        )

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Copying sequences is refused."""
        raise InputError("a thinkv cache cannot be repeated; repeat the inputs before the prompt")

    def batch_select_indices(self, indices: Any) -> None:
        """Keep some sequences of the batch; each at most once."""
        chosen = torch.arange(len(self.rows))[indices.cpu()].tolist()
        if len(set(chosen)) != len(chosen):
            raise InputError("a thinkv cache cannot hold one sequence twice")
        self.rows = [self.rows[i] for i in chosen]

    def reset(self) -> None:
        """Forget everything."""
        self.rows, self.logical, self.pending, self.due = [], 0, 0, 0


class _LayerView(CacheLayerMixin):
    """What transformers asks of one layer; the rows hold the data."""

    is_compileable = False
    is_croppable = False
    is_sliding = False
    supports_early_init = False

    def __init__(self, cache: MethodCache, index: int) -> None:
        super().__init__()
        self.cache, self.index = cache, index
        self.is_initialized = True

    def lazy_initialization(self, *_: Any, **__: Any) -> None:
        """Nothing is allocated before there are tokens."""

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Hands the new keys on to the attention function, which stores them."""
        self.cache.expect(self.index, key_states.shape[0], key_states.shape[2])
        key_states.thinkv = (self.cache, self.index)
        return key_states, value_states

    def get_mask_sizes(self, query_length: Any, *_: Any) -> tuple[int, int]:
        """(new tokens, their offset): the mask is about the new tokens alone.

        transformers 5.2 passes their positions instead of their number.
        """
        new = query_length if isinstance(query_length, int) else int(query_length.shape[0])
        return new, self.cache.logical

    def get_seq_length(self, *_: Any) -> int:
        """Logical length."""
        return self.cache.logical

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    get_max_cache_shape = get_max_length  # its name in transformers 5.2


def attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> tuple[Any, None]:
    """The registered function: a thinkv cache's keys go through it, any other's through SDPA."""
    owner = getattr(key, "thinkv", None)
    if owner is None:
        out: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return out
    for name in ("softcap", "s_aux"):
        if kwargs.get(name) is not None:
            raise InputError(f"thinkv has no attention with {name}; use another model")
    if kwargs.get("sliding_window") is not None:
        raise InputError("thinkv has no sliding windows; use a model with full attention")
    cache, layer = owner
    scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
    return cache.attend(layer, query, key, value, attention_mask, scaling), None


def register() -> None:
    """Make NAME known to transformers; does nothing the second time."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def switch(module: Any) -> None:
    """Let a model attend through NAME for good. InputError for a model that cannot."""
    refuse(module.config)
    register()
    before = module.config._attn_implementation
    module.set_attn_implementation(NAME)
    if module.config._attn_implementation != NAME:  # transformers only warns
        module.set_attn_implementation(before)
        raise InputError(
            f"{module.config.model_type} does not attend through transformers' AttentionInterface, "
            "which thinkv needs; use a model that does"
        )


@contextlib.contextmanager
def attached(module: Any) -> Iterator[None]:
    """`switch` for the length of a with block."""
    before = module.config._attn_implementation
    switch(module)
    try:
        yield
    finally:
        module.set_attn_implementation(before)


def refuse(config: Any) -> None:
    """InputError for what no paged store here can serve."""
    text = config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{config.model_type}: thinkv serves decoders, not encoder-decoders")
    window = getattr(text, "sliding_window", None)
    if getattr(text, "use_sliding_window", True) is False:
        window = None
    if kinds != {"full_attention"} or (window and not getattr(text, "layer_types", None)):
        other = ", ".join(sorted(kinds - {"full_attention"})) or f"a window of {window}"
        raise InputError(
            f"{config.model_type} has layers with {other}; thinkv needs full attention in every "
            "layer, since reused slots have no order"
        )
    if getattr(text, "kv_lora_rank", None):
        raise InputError(f"{config.model_type}: thinkv has no latent attention (MLA)")
    heads = getattr(text, "num_attention_heads", None)
    if heads is None:
        raise InputError(f"{config.model_type} has no attention heads, so no KV cache")
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    if head_dim % 16:
        raise InputError(
            f"{config.model_type}: heads of {head_dim} channels do not split into groups of 16"
        )


def _valid(mask: Any, row: int, new: int) -> Any:
    """Which new tokens of a row are no padding, [t] boolean; None: all."""
    if mask is None:
        return None
    if mask.dtype != torch.bool or mask.shape[-2:] != (new, new):
        raise InputError(
            f"thinkv takes 2-D padding masks; a custom mask of shape {tuple(mask.shape)} cannot "
            "follow tokens that are evicted"
        )
    seen = mask[row if mask.shape[0] > 1 else 0, 0].diagonal()
    return None if bool(seen.all()) else seen
