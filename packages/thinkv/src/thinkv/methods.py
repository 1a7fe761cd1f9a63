"""Methods by name at an equal number of bytes: what benchmarks and `crosslayer thinkv bench` run.

A method gets the bytes that one layer of one sequence may hold after so many tokens, everything
counted, and takes the largest token budget that fits. Methods without a budget (full, kivi, tbq)
hold what they hold. ThinKV's ablations are methods: "tbq" quantises and never evicts, "tbe" evicts
and stays at 16 bits, "one-type" has |T| = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from crosslayer.errors import InputError, nearest
from thinkv.baselines import BaselineSettings, EvictingRow, KiviRow, KiviSettings
from thinkv.cache import Row
from thinkv.layout import GROUP, Layout, formats_of
from thinkv.row import Labeller, Settings, ThinKVRow
from thinkv.simulate import LayerSimulation
from thinkv.thoughts import Rules, Thought

EVICTORS = ("window", "random", "h2o", "snapkv", "rkv")
THINKV = ("thinkv", "one-type", "tbq", "tbe", "shuffled", "oracle")
METHODS = ("full", *EVICTORS, "kivi4", "kivi2", *THINKV)


@dataclass(frozen=True)
class Shape:
    """What sizes depend on: one layer's heads, and how long the sequence gets."""

    heads: int
    kv_heads: int
    head_dim: int
    prompt: int
    tokens: int  # after the prompt


@dataclass(frozen=True)
class Method:
    """A name, the budget it got (None: none) and how to make its rows."""

    name: str
    budget_tokens: int | None
    make_row: Callable[[int], Row]


def method(
    name: str,
    shape: Shape,
    layer_bytes: float,
    seed: int = 0,
    labeller: Labeller | None = None,
    rules: Rules | None = None,
    bits: str = "R4E4T2",
) -> Method:
    """The method of that name within layer_bytes. labeller: how thinkv and its relatives label.

    InputError for an unknown name, for bytes that hold not even one group, and for given labels
    that are not given.
    """
    if name not in METHODS:
        raise InputError(f"no method {name!r}; {nearest(name, METHODS)}")
    if name == "full":
        return Method(name, None, lambda n: EvictingRow(BaselineSettings(), n))
    if name.startswith("kivi"):
        kivi = KiviSettings(bits=int(name[4:]))
        return Method(name, None, lambda n: KiviRow(kivi, n))
    if name in EVICTORS:
        budget = _evictor_budget(name, shape, layer_bytes)
        settings = BaselineSettings(method=name, budget_tokens=budget, seed=seed)  # type: ignore[arg-type]
        return Method(name, budget, lambda n: EvictingRow(settings, n))
    rules, labeller = rules or Rules(), labeller or Labeller()
    if name in ("shuffled", "oracle") and labeller.labels is None:
        raise InputError(f"{name} needs a text whose segments have known types; use thinkv")
    if name == "one-type":
        labeller, rules = Labeller(), replace(rules, trigger="never")
    if name == "tbe":
        bits = "R16E16T16"
    layout = Layout(shape.kv_heads, shape.head_dim, formats_of(bits))
    one = (Thought.REASONING,)
    labels = labeller.labels or (tuple(reversed(Thought)) if labeller.layers else one)
    if name == "tbq":
        rules = replace(rules, budget_tokens=None, trigger="never")
    else:
        rules = replace(rules, budget_tokens=_budget(layout, rules, labels, shape, layer_bytes))
    made = Settings(layout.formats, rules, labeller, prompt_tokens=shape.prompt)
    return Method(name, rules.budget_tokens, lambda n: ThinKVRow(made, n))


def _evictor_budget(name: str, shape: Shape, layer_bytes: float) -> int:
    """Tokens that fit: fp16 keys and values, a position and for H2O a score a head."""
    token = shape.kv_heads * (4 * shape.head_dim + 4 + (4 if name == "h2o" else 0))
    fixed = GROUP * 2 * shape.heads * shape.head_dim if name in ("snapkv", "rkv") else 0
    budget = int((layer_bytes - fixed) // token)
    if budget < GROUP + 4:
        raise InputError(
            f"{layer_bytes:.0f} bytes a layer hold {budget} tokens of {name}; allow more bytes"
        )
    return budget


def _budget(
    layout: Layout, rules: Rules, labels: tuple[Thought, ...], shape: Shape, layer_bytes: float
) -> int:
    """The largest budget whose simulated store fits, by bisection in groups."""

    def stored(budget: int) -> int:
        layer = LayerSimulation(layout, replace(rules, budget_tokens=budget))
        layer.prompt(shape.prompt)
        layer.generate(labels, shape.tokens)
        return layer.bytes

    low, high = 1, -(-shape.tokens // GROUP)
    if stored(low * GROUP) > layer_bytes:
        return low * GROUP  # the floor; the table shows its bytes
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if stored(middle * GROUP) <= layer_bytes else (low, middle - 1)
    return low * GROUP


def full_layer_bytes(shape: Shape) -> int:
    """Keys and values of the whole sequence in fp16."""
    return (shape.prompt + shape.tokens) * 4 * shape.kv_heads * shape.head_dim


def shape_of(config: Any, prompt: int, tokens: int) -> Shape:
    """The shape of a transformers config."""
    text = config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Shape(heads, getattr(text, "num_key_value_heads", heads), head_dim, prompt, tokens)
