"""A live model of this process: samples decoded in batches, a prompt read once for all of them.

A sample draws one number a token from a generator of its own seed and inverts the distribution
with it, so neighbours in a batch cannot change it, but for rounding: a matrix product of another
shape may round a logit differently, and a draw within that distance of a border between two tokens
(some 1e-5 of the mass in fp32), or a tie of the greedy choice, may then fall on the other side.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crosslayer.backends.protocol import (
    Generation,
    OnDone,
    Prompt,
    Sample,
    Sampling,
    TokenLogprob,
    Usage,
)
from crosslayer.contracts.calls import Message
from crosslayer.errors import ComponentError, InputError

if TYPE_CHECKING:
    from crosslayer.kinds import LiveModel

SHARED_FROM = 16  # tokens that all prompts of a batch begin with, from which on they are read once


@dataclass
class _Row:
    """A sample on its way."""

    prompt: int
    number: int
    ids: tuple[int, ...]
    sampling: Sampling
    rng: np.random.Generator
    limit: int
    made: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str | None = None
    reason: str = ""


class TransformersBackend:
    """Samples of a `kinds.LiveModel`.

    rows: samples decoded at one time. A chat template of the tokenizer is used; without one, a
    single user message is continued as it stands, and several messages become "role: content"
    lines before "assistant:". The last prompt read is kept, so the weights must not change under a
    backend. A model with a cache of its own (which evicts, or quantises) or without attention is
    decoded sample by sample. Errors: InputError for an empty prompt or one longer than the context.
    """

    def __init__(self, live: LiveModel, model: str, *, rows: int = 16) -> None:
        if rows < 1:
            raise InputError(f"rows must be 1 or more, not {rows}")
        self.model, self._live, self._rows = model, live, rows
        self._usage = Usage()
        self._ready: _Decoder | None = None

    def usage(self) -> Usage:
        """Samples and tokens so far."""
        return self._usage

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The tokens that the model reads for these messages."""
        tokenizer = self._live.tokenizer
        chat = getattr(tokenizer, "chat_template", None) is not None
        text = self._templated(messages) if chat else plain(messages)
        # A template writes its own special tokens.
        ids = tokenizer(text, add_special_tokens=not chat)["input_ids"]
        if not ids:
            raise InputError(f"a prompt without a token cannot be continued: {text[:60]!r}")
        return tuple(int(one) for one in ids)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """How many tokens the model reads for these messages."""
        return len(self.prompt_ids(messages))

    def _templated(self, messages: Sequence[Message]) -> str:
        turns = [message.model_dump() for message in messages]
        try:
            return str(
                self._live.tokenizer.apply_chat_template(
                    turns, add_generation_prompt=True, tokenize=False
                )
            )
        except Exception as error:  # whatever a template raises
            roles = ", ".join(message.role for message in messages)
            raise InputError(
                f"the chat template of {self.model} refuses messages of {roles}: {error}"
            ) from error

    def generate(
        self, prompts: Sequence[Prompt], done: OnDone | None = None
    ) -> tuple[Generation, ...]:
        """The samples, shorter prompts first."""
        import torch

        if self._ready is None:
            self._ready = _Decoder(self._live)
        rows = [row for i, prompt in enumerate(prompts) for row in self._rows_of(i, prompt)]
        rows.sort(key=lambda row: (len(row.ids), row.prompt))
        left = [prompt.sampling.n for prompt in prompts]
        samples: list[list[Sample | None]] = [[None] * n for n in left]
        found: dict[int, Generation] = {}
        with torch.inference_mode():
            for start in range(0, len(rows), self._rows):
                batch = rows[start : start + self._rows]
                self._ready.decode(batch)
                for row in batch:
                    samples[row.prompt][row.number] = self._sample(row)
                    left[row.prompt] -= 1
                    if not left[row.prompt]:
                        made = self._generation(row, samples[row.prompt])
                        found[row.prompt] = made
                        if done is not None:
                            done(row.prompt, made)
        return tuple(found[i] for i in range(len(prompts)))

    def _rows_of(self, i: int, prompt: Prompt) -> list[_Row]:
        ids = self.prompt_ids(prompt.messages)
        context = getattr(self._live.module.config, "max_position_embeddings", None)
        room = prompt.sampling.max_tokens if context is None else context - len(ids)
        if room < 1:
            raise InputError(
                f"prompt {i} has {len(ids)} tokens, and {self.model} reads {context} together with"
                " its answer; shorten it"
            )
        limit = min(prompt.sampling.max_tokens, room)
        return [
            _Row(i, number, ids, prompt.sampling, np.random.default_rng(seed), limit)
            for number, seed in enumerate(prompt.sampling.seeds)
        ]

    def _sample(self, row: _Row) -> Sample:
        decode = self._live.tokenizer.decode
        text = _text(decode, row.made, self._decoder.ends) if row.text is None else row.text
        logprobs = None
        if row.sampling.logprobs:
            logprobs = tuple(
                TokenLogprob(token=decode([id]), logprob=value)
                for id, value in zip(row.made, row.logprobs, strict=True)
            )
        reason = "length" if row.reason == "length" else "stop"
        return Sample.model_validate(
            {"text": text, "tokens": len(row.made), "finish_reason": reason, "logprobs": logprobs}
        )

    @property
    def _decoder(self) -> _Decoder:
        assert self._ready is not None
        return self._ready

    def _generation(self, row: _Row, samples: Sequence[Sample | None]) -> Generation:
        whole = tuple(sample for sample in samples if sample is not None)
        self._usage = self._usage.replace(
            samples=self._usage.samples + len(whole),
            prompt_tokens=self._usage.prompt_tokens + len(row.ids),
            output_tokens=self._usage.output_tokens + sum(sample.tokens for sample in whole),
        )
        return Generation(prompt_tokens=len(row.ids), samples=whole)


def plain(messages: Sequence[Message]) -> str:
    """The text that a model without a chat template continues."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    turns = "".join(f"{message.role}: {message.content}\n" for message in messages)
    return f"{turns}assistant:"


class _Decoder:
    """Batches of rows to their ends. ends: the tokens that end a sample."""

    def __init__(self, live: LiveModel) -> None:
        self._live, self._module = live, live.module
        accepted = inspect.signature(self._module.forward).parameters
        # State-space models call their cache cache_params and know no positions.
        self._cache_name = "past_key_values" if "past_key_values" in accepted else "cache_params"
        self._positions = "position_ids" in accepted
        self._keep = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._device = next(self._module.parameters()).device
        cache = live.new_cache()
        layers = {type(layer).__name__ for layer in getattr(cache, "layers", ())}
        plain_cache = type(cache).__module__.startswith("transformers.")
        plain_cache = plain_cache and live.chunk_tokens is None
        self._copies = plain_cache
        self._batches = (
            plain_cache
            and self._positions
            and type(cache).__name__ == "DynamicCache"
            and layers <= {"DynamicLayer", "DynamicSlidingWindowLayer"}
        )
        # Where a window counts places of the cache, padding in the middle would count too.
        self._shares = self._batches and layers <= {"DynamicLayer"}
        self._last: tuple[tuple[int, ...], Any, Any] | None = None  # prompt, cache, logits
        config = getattr(self._module, "generation_config", None)
        given = getattr(config, "eos_token_id", None)
        ends = given if isinstance(given, list | tuple) else [given]
        own = getattr(live.tokenizer, "eos_token_id", None)
        self.ends = frozenset(int(id) for id in (*ends, own) if id is not None)

    def decode(self, rows: Sequence[_Row]) -> None:
        """All rows, each to its end."""
        if self._batches:
            self._together(rows)
            return
        for row in rows:
            self._alone(row)

    # Together: rows of one cache [rows, ...], prompts padded on the left

    def _together(self, rows: Sequence[_Row]) -> None:
        import torch

        prompts = list(dict.fromkeys(row.ids for row in rows))
        cache, logits, mask = self._read(prompts)
        of_row = torch.tensor([prompts.index(row.ids) for row in rows], device=self._device)
        cache.batch_select_indices(of_row)  # each row its own copy of its prompt's keys and values
        logits, mask = logits[of_row], mask[of_row]
        active = list(rows)
        while True:
            self._choose(active, logits)
            kept = [i for i, row in enumerate(active) if not row.reason]
            if not kept:
                return
            if len(kept) < len(active):
                at = torch.tensor(kept, device=self._device)
                cache.batch_select_indices(at)
                mask, active = mask[at], [active[i] for i in kept]
            ids = torch.tensor([[row.made[-1]] for row in active], device=self._device)
            places = [[len(row.ids) + len(row.made) - 1] for row in active]
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
            logits = self._step(ids, torch.tensor(places, device=self._device), cache, mask)

    def _read(self, prompts: list[tuple[int, ...]]) -> tuple[Any, Any, Any]:
        """(cache, logits of the next token, mask [prompts, places]) of different prompts."""
        import torch

        if len(prompts) == 1 and self._last is not None and self._last[0] == prompts[0]:
            _, cache, logits = self._last
            mask = torch.ones(1, len(prompts[0]), dtype=torch.long, device=self._device)
            return copy.deepcopy(cache), logits, mask
        cache = self._live.new_cache()
        shared = self._shared(prompts)
        if shared:
            ids = torch.tensor([prompts[0][:shared]], device=self._device)
            places = torch.arange(shared, device=self._device)[None]
            self._step(ids, places, cache, torch.ones_like(ids))
            cache.batch_repeat_interleave(len(prompts))
        longest = max(map(len, prompts)) - shared
        lengths = torch.tensor([[len(ids) - shared] for ids in prompts], device=self._device)
        column = torch.arange(longest, device=self._device)[None]
        real = (column >= longest - lengths).long()
        places = (column - (longest - lengths)).clamp(min=0) + shared
        padded = [[0] * (longest + shared - len(ids)) + list(ids[shared:]) for ids in prompts]
        ids = torch.tensor(padded, device=self._device)
        mask = torch.cat([real.new_ones(len(prompts), shared), real], dim=1)
        logits = self._step(ids, places, cache, mask)
        if len(prompts) == 1:
            self._last = prompts[0], copy.deepcopy(cache), logits
        return cache, logits, mask

    def _shared(self, prompts: list[tuple[int, ...]]) -> int:
        """Tokens that all prompts begin with and that are worth reading once; each keeps one of its
        own.
        """
        if len(prompts) < 2 or not self._shares:
            return 0
        first, last = min(prompts), max(prompts)
        shortest = min(map(len, prompts)) - 1
        same = next((i for i in range(shortest) if first[i] != last[i]), shortest)
        return same if same >= SHARED_FROM else 0

    # Alone: any cache, one row

    def _alone(self, row: _Row) -> None:
        import torch

        if self._last is not None and self._last[0] == row.ids:
            cache, logits = copy.deepcopy(self._last[1]), self._last[2]
        else:
            cache = self._live.new_cache()
            piece = self._live.chunk_tokens or len(row.ids)
            if self._cache_name == "cache_params":
                piece = 1  # transformers reads a longer piece from an empty state
            for start in range(0, len(row.ids), piece):
                ids = torch.tensor([row.ids[start : start + piece]], device=self._device)
                logits = self._step(ids, self._from(start, ids), cache, None)
            if self._copies:
                self._last = row.ids, copy.deepcopy(cache), logits
        while True:
            self._choose([row], logits)
            if row.reason:
                return
            ids = torch.tensor([[row.made[-1]]], device=self._device)
            place = len(row.ids) + len(row.made) - 1
            logits = self._step(ids, self._from(place, ids), cache, None)

    def _from(self, start: int, ids: Any) -> Any:
        import torch

        return torch.arange(start, start + ids.shape[1], device=self._device)[None]

    # Both

    def _step(self, ids: Any, places: Any, cache: Any, mask: Any) -> Any:
        """Tokens [rows, t] at their places -> logits of the token after the last, [rows, v]."""
        named: dict[str, Any] = {self._cache_name: cache, "use_cache": True, **self._keep}
        if self._positions:
            named["position_ids"] = places
        if mask is not None:
            named["attention_mask"] = mask
        return self._module(input_ids=ids, **named).logits[:, -1].double()

    def _choose(self, rows: Sequence[_Row], logits: Any) -> None:
        """The next token of every row, and what ends with it."""
        if not bool(logits.isfinite().all()):
            raise ComponentError("the model's logits are not finite; a transform broke its weights")
        greedy = logits.argmax(-1).tolist()
        for i, row in enumerate(rows):
            token = greedy[i] if row.sampling.temperature == 0 else _drawn(row, logits[i])
            row.made.append(token)
            if row.sampling.logprobs:
                value = float(logits[i, token] - logits[i].logsumexp(-1))
                row.logprobs.append(min(value, 0.0))
            if token in self.ends:
                row.reason = "end"
            elif row.sampling.stop and self._stopped(row):
                row.reason = "stop"
            elif len(row.made) >= row.limit:
                row.reason = "length"

    def _stopped(self, row: _Row) -> bool:
        """Whether a stop text stands in what was said, across tokens too; it and the rest go."""
        text = _text(self._live.tokenizer.decode, row.made, self.ends)
        found = [at for at in (text.find(stop) for stop in row.sampling.stop) if at >= 0]
        if found:
            row.text = text[: min(found)]
        return bool(found)


def _text(decode: Any, ids: list[int], ends: frozenset[int]) -> str:
    said = ids[:-1] if ids and ids[-1] in ends else ids
    return str(decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _drawn(row: _Row, logits: Any) -> int:
    """A token of softmax(logits / temperature), by one number of the row's generator."""
    mass = (logits / row.sampling.temperature).softmax(-1).cumsum(-1).cpu().numpy()
    at = int(np.searchsorted(mass, row.rng.random() * mass[-1], side="right"))
    return min(at, len(mass) - 1)
