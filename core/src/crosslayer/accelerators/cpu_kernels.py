"""The ops that a calibration times, as a library runs them without fusing: torch's, or NumPy's.

Each is what eager model code calls: a norm is six calls, rotary embedding a dozen; decode attention
appends to the cache by a copy. With torch every op sits in a module of its own, whose call counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

WIDTH = 1024  # of a row of an elementwise op
HEADS, KV_HEADS, HEAD = 8, 2, 64  # of the attention that is timed
TAPS = 4  # of the depthwise convolution, on WIDTH channels
KV_TOKEN_BYTES = 2 * KV_HEADS * HEAD * 4
Call = Callable[[int], Any]  # the i-th call takes other operands than the one before


class TorchKernels:
    """torch on the CPU; `products` names the formats that have a product at all."""

    name = "torch"
    formats: Sequence[str] = ("fp32", "bf16", "int8")

    def __init__(self, pool_bytes: int) -> None:
        import torch

        class Op(torch.nn.Module):
            def __init__(self, function: Callable[..., Any]) -> None:
                super().__init__()
                self.function = function

            def forward(self, *operands: Any) -> Any:
                return self.function(*operands)

        self._torch, self._op_of = torch, Op
        self._pool = torch.full((pool_bytes // 4,), 0.01)

    def _op(self, function: Callable[..., Any]) -> Any:
        made: Any = self._op_of
        return made(function).eval()

    def quiet(self) -> Any:
        """The context that timings run in."""
        return self._torch.inference_mode()

    def _cold(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Tensors of that shape one after the other in the pool: [count, *shape]."""
        pool = self._pool if dtype is None else self._pool.view(dtype)
        size = int(np.prod(shape))
        count = max(1, pool.numel() // size)
        return pool[: count * size].view(count, *shape)

    def copy(self, size_bytes: int | None) -> tuple[Call, int]:
        """(a copy of that many bytes, None: half the pool; bytes that it reads and writes)."""
        half = self._pool.numel() // 2 if size_bytes is None else size_bytes // 4
        source, target = self._pool[:half], self._pool[half : 2 * half]
        return lambda i: target.copy_(source), 8 * half

    def product(self, m: int, k: int, n: int, form: str, cold: bool = True) -> Call:
        """[m, k] x [k, n] with weights that the caches do not hold."""
        torch = self._torch
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[form]
        weights = self._cold((n, k), dtype)
        x = torch.ones(m, k, dtype=dtype)
        count = len(weights) if cold else 1
        if form == "int8":
            return lambda i: torch._int_mm(x, weights[i % count].t())
        linear = self._op(torch.nn.functional.linear)
        rows = list(weights[:count]) if count <= 4096 else weights
        return lambda i: linear(x, rows[i % count])

    def elementwise(self, kind: str, rows: int) -> Call:
        """One op of that kind on [rows, WIDTH]."""
        torch = self._torch
        a, b = torch.ones(rows, WIDTH), torch.ones(rows, WIDTH)
        w = torch.ones(WIDTH)
        silu = torch.nn.functional.silu

        def norm(x: Any) -> Any:
            x = x.to(torch.float32)
            return w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

        def turned(x: Any) -> Any:
            half = x.shape[-1] // 2
            return torch.cat((-x[..., half:], x[..., :half]), dim=-1)

        def rope(q: Any, k: Any, cos: Any, sin: Any) -> Any:
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
            return q * cos + turned(q) * sin, k * cos + turned(k) * sin

        if kind == "rope":
            heads = WIDTH // HEAD
            q = torch.ones(1, heads * 3 // 4, rows, HEAD)
            k, cos = torch.ones(1, heads // 4, rows, HEAD), torch.ones(1, rows, HEAD)
            run = self._op(rope)
            return lambda i: run(q, k, cos, cos)
        if kind == "embedding":
            table = self._cold((WIDTH,))
            table = table[: min(len(table), 1 << 15)]
            ids = torch.arange(rows) * 4099 % len(table)
            run = self._op(torch.nn.functional.embedding)
            return lambda i: run(ids, table)
        function = {
            "norm": lambda x, _: norm(x),
            "silu_gate": lambda x, y: silu(x) * y,
            "silu": lambda x, _: silu(x),
            "add": lambda x, y: x + y,
        }[kind]
        run = self._op(function)
        return lambda i: run(a, b)

    def depthwise(self, positions: int) -> Call:
        """A causal depthwise 1-D convolution of so many output positions."""
        torch = self._torch
        x, w = torch.ones(1, WIDTH, positions + TAPS - 1), torch.ones(WIDTH, 1, TAPS)
        conv = torch.nn.functional.conv1d
        run = self._op(lambda x, w: conv(x, w, groups=WIDTH))
        return lambda i: run(x, w)

    def prefill_attention(self, tokens: int) -> Call:
        """Causal attention of one sequence onto itself."""
        torch = self._torch
        q = torch.ones(1, HEADS, tokens, HEAD)
        k = torch.ones(1, KV_HEADS, tokens, HEAD)

        def attend(q: Any, k: Any, v: Any) -> Any:
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=True
            )
            return out.transpose(1, 2).contiguous()

        run = self._op(attend)
        return lambda i: run(q, k, k)

    def decode_attention(self, context: int) -> Call:
        """One token onto a cache that no CPU cache holds: appended by a copy, then attended."""
        torch = self._torch
        caches = self._cold((1, KV_HEADS, context, HEAD))
        q, new = torch.ones(1, HEADS, 1, HEAD), torch.ones(1, KV_HEADS, 1, HEAD)

        def attend(q: Any, k: Any, v: Any) -> Any:
            k, v = torch.cat((k, new), dim=-2), torch.cat((v, new), dim=-2)
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            return out.transpose(1, 2).contiguous()

        run, count = self._op(attend), len(caches)
        return lambda i: run(q, caches[2 * i % count], caches[(2 * i + 1) % count])

    def scan_step(self, elements: int) -> Call:
        """One token of h = exp(dt A) h + dt B x, y = C h, on [elements / 16, 16]."""
        torch = self._torch
        h, a = torch.ones(elements // 16, 16), torch.full((elements // 16, 16), -0.5)
        x, b = torch.ones(elements // 16, 1), torch.ones(16)
        run = self._op(lambda h, x: ((torch.exp(x * a) * h + (x * b) * x) * b).sum(-1))
        return lambda i: run(h, x)


class NumpyKernels:
    """The same in NumPy, fp32 only."""

    name = "numpy"
    formats: Sequence[str] = ("fp32",)

    def __init__(self, pool_bytes: int) -> None:
        self._pool = np.full(pool_bytes // 4, 0.01, dtype=np.float32)

    def quiet(self) -> Any:
        """The context that timings run in."""
        return np.errstate(all="ignore")

    def _cold(self, shape: tuple[int, ...]) -> Any:
        size = int(np.prod(shape))
        count = max(1, self._pool.size // size)
        return self._pool[: count * size].reshape(count, *shape)

    def copy(self, size_bytes: int | None) -> tuple[Call, int]:
        """As TorchKernels.copy."""
        half = self._pool.size // 2 if size_bytes is None else size_bytes // 4
        source, target = self._pool[:half], self._pool[half : 2 * half]
        return lambda i: np.copyto(target, source), 8 * half

    def product(self, m: int, k: int, n: int, form: str, cold: bool = True) -> Call:
        """As TorchKernels.product, in fp32."""
        weights, x = self._cold((n, k)), np.ones((m, k), np.float32)
        count = len(weights) if cold else 1
        return lambda i: x @ weights[i % count].T

    def elementwise(self, kind: str, rows: int) -> Call:
        """As TorchKernels.elementwise."""
        a, w = np.ones((rows, WIDTH), np.float32), np.ones(WIDTH, np.float32)
        half = WIDTH // 2
        ids = np.arange(rows) * 4099 % 256
        table = self._cold((WIDTH,))[:256]
        calls: dict[str, Call] = {
            "norm": lambda i: w * (a / np.sqrt((a * a).mean(-1, keepdims=True) + 1e-6)),
            "rope": lambda i: a * w + np.concatenate((-a[:, half:], a[:, :half]), -1) * w,
            "embedding": lambda i: table[ids],
            "silu_gate": lambda i: a / (1 + np.exp(-a)) * a,
            "silu": lambda i: a / (1 + np.exp(-a)),
            "add": lambda i: a + a,
        }
        return calls[kind]

    def depthwise(self, positions: int) -> Call:
        """As TorchKernels.depthwise: a multiplication and an addition a tap."""
        x = np.ones((WIDTH, positions), np.float32)
        w = x[:, :1]
        return lambda i: sum((x * w for _ in range(TAPS - 1)), x * w)

    def prefill_attention(self, tokens: int) -> Call:
        """As TorchKernels.prefill_attention."""
        q = np.ones((KV_HEADS, HEADS // KV_HEADS * tokens, HEAD), np.float32)
        k = np.ones((KV_HEADS, tokens, HEAD), np.float32)
        return lambda i: _attend(q, k, k)

    def decode_attention(self, context: int) -> Call:
        """As TorchKernels.decode_attention."""
        caches = self._cold((KV_HEADS, context, HEAD))
        q = np.ones((KV_HEADS, HEADS // KV_HEADS, HEAD), np.float32)
        new, count = np.ones((KV_HEADS, 1, HEAD), np.float32), len(caches)

        def call(i: int) -> Any:
            pair = (caches[2 * i % count], caches[(2 * i + 1) % count])
            return _attend(q, *(np.concatenate((cache, new), 1) for cache in pair))

        return call

    def scan_step(self, elements: int) -> Call:
        """As TorchKernels.scan_step."""
        h = np.ones((elements // 16, 16), np.float32)
        a, x, b = -0.5 * h, h[:, :1], h[0]
        return lambda i: ((np.exp(x * a) * h + (x * b) * x) * b).sum(-1)


def _attend(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.swapaxes(-1, -2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v
