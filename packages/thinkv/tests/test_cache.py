"""The cache inside transformers: generate, padding, turns, exactness of pieces, honest bytes."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from crosslayer.errors import ComponentError, InputError
from crosslayer.kinds import ModelArtifact
from thinkv.attaching import attach
from thinkv.cache import MethodCache, attached, refuse
from thinkv.layout import formats_of
from thinkv.params import ThinKVParams
from thinkv.row import Labeller, Settings, ThinKVRow
from thinkv.thoughts import Rules, Thought

IDS = torch.randint(1, 256, (2, 400), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def module(tiny: ModelArtifact) -> Any:
    """With sharper queries and keys than random weights give: rows of attention with a shape."""
    assert tiny.live is not None
    module = tiny.live.module
    for layer in module.model.layers:
        layer.self_attn.q_proj.weight *= 12
        layer.self_attn.k_proj.weight *= 12
    return module


def cache_for(module: Any, **changes: Any) -> MethodCache:
    """A cache with short segments, so that a few hundred tokens see everything happen."""
    settings = {
        "formats": formats_of("R4E4T2"),
        "rules": Rules(segment_tokens=32, schedule=(16, 8, 4), budget_tokens=80),
        "block_tokens": 8,
        **changes,
    }
    return MethodCache(module.config, lambda layers: ThinKVRow(Settings(**settings), layers))


# With these thresholds the segments of IDS have all three types.
THRESHOLDS = Labeller(layers=(0, 1), thresholds=(0.65, 0.75))


def decode(module: Any, ids: Any, cache: Any, piece: int) -> Any:
    """Logits of all tokens, fed in pieces."""
    out = []
    for start in range(0, ids.shape[1], piece):
        part = ids[:, start : start + piece]
        out.append(module(input_ids=part, past_key_values=cache, use_cache=True).logits)
    return torch.cat(out, 1)


def test_with_another_cache_or_none_the_model_is_bit_identical(module: Any) -> None:
    plain = module(input_ids=IDS).logits
    plain_steps = decode(module, IDS[:, :40], DynamicCache(config=module.config), 8)
    with attached(module):
        assert torch.equal(module(input_ids=IDS).logits, plain)
        steps = decode(module, IDS[:, :40], DynamicCache(config=module.config), 8)
        assert torch.equal(steps, plain_steps)
    assert module.config._attn_implementation == "sdpa"
    assert torch.equal(module(input_ids=IDS).logits, plain)


def test_sixteen_bits_and_no_budget_equal_the_full_cache_up_to_rounding(module: Any) -> None:
    plain = module(input_ids=IDS[:1]).logits
    with attached(module), torch.inference_mode():
        cache = cache_for(module, formats=formats_of("R16E16T16"), rules=Rules(budget_tokens=None))
        torch.testing.assert_close(decode(module, IDS[:1], cache, 16), plain, rtol=1e-2, atol=2e-3)


def fed(pieces: list[int], window: int) -> tuple[ThinKVRow, Any]:
    """A row of two layers that got the same random tokens in pieces, and its outputs."""
    generator = torch.Generator().manual_seed(2)
    total = sum(pieces)
    q = torch.randn(2, 4, total, 32, generator=generator) * 2
    k, v = torch.randn(2, 2, 2, total, 32, generator=generator)
    settings = Settings(
        formats_of("R4E4T2"),
        Rules(segment_tokens=32, schedule=(16, 8, 4), budget_tokens=80),
        dataclasses.replace(THRESHOLDS, thresholds=(0.2, 0.3), window=window),
        prompt_tokens=0,
    )
    row, out, start = ThinKVRow(settings, 2), [], 0
    for size in pieces:
        row.begin(size)
        part = slice(start, start + size)
        layers = (row.attend(i, q[i][:, part], k[i][:, part], v[i][:, part], 0.2) for i in (0, 1))
        out.append(torch.stack(list(layers)))
        start += size
    row.settle()
    return row, torch.cat(out, 2)


@pytest.mark.parametrize("window", [1, 3])
def test_pieces_of_sixteen_tokens_equal_token_by_token(window: int) -> None:
    row, out = fed([16] * 20, window)
    single, single_out = fed([1] * 320, window)
    torch.testing.assert_close(out, single_out, rtol=1e-5, atol=1e-5)
    assert row.timeline == single.timeline and row.evicted == single.evicted > 0
    assert {label for _, _, label in row.history} == set(Thought)
    for ours, theirs in zip(row.layers, single.layers, strict=True):
        assert ours is not None and theirs is not None
        for name, pool in ours.pools.items():
            other = theirs.pools[name]
            for a, b in zip(pool.table.tensors(), other.table.tensors(), strict=True):
                assert torch.equal(a, b)
            assert torch.equal(pool.k, other.k) and torch.equal(pool.v, other.v)


def test_pieces_that_cross_a_refresh_keep_one_type_a_group() -> None:
    row, _ = fed([7, 50, 3, 90, 1, 169], 1)
    assert row.timeline.generated + row.waiting == 320
    sizes = [segment.start for segment in row.timeline.segments]
    assert sizes == list(range(0, 321, 32))
    live = {segment.start: segment.alive for segment in row.timeline.segments}
    store = row.layers[1]
    assert store is not None
    for start, alive in live.items():
        stored = sum(len(pool.slots_of(start)) for pool in store.pools.values())
        assert stored == alive


def test_left_padded_rows_equal_each_row_alone(module: Any) -> None:
    short = IDS[1:, :9]
    padded = torch.cat([torch.zeros(1, 11, dtype=torch.long), short], 1)
    batch = torch.cat([IDS[:1, :20], padded])
    mask = torch.ones_like(batch)
    mask[1, :11] = 0
    kwargs = {"max_new_tokens": 70, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with attached(module):
        together = cache_for(module)
        out = module.generate(batch, attention_mask=mask, past_key_values=together, **kwargs)
        for i, prompt in enumerate((batch[:1, :20], short)):
            alone = cache_for(module)
            single = module.generate(
                prompt, attention_mask=torch.ones_like(prompt), past_key_values=alone, **kwargs
            )
            assert out[i, -70:].tolist() == single[0, -70:].tolist()
            assert together.rows[i].bytes() == alone.rows[0].bytes()
    assert together.get_seq_length() == batch.shape[1] + 69
    assert [row.physical for row in together.rows] != [together.get_seq_length()] * 2


def test_greedy_tokens_are_those_that_the_model_itself_finds_likeliest(module: Any) -> None:
    """16 bits and no budget lose only rounding; a wrong position, mask or key would show."""
    kept = {"formats": formats_of("R16E16T16"), "rules": Rules(budget_tokens=None)}
    batch, mask = IDS[:, :20].clone(), torch.ones(2, 20, dtype=torch.long)
    batch[1, :11], mask[1, :11] = 0, 0
    kwargs = {"max_new_tokens": 60, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with attached(module):
        cache = cache_for(module, **kept)
        out = module.generate(batch, attention_mask=mask, past_key_values=cache, **kwargs)
    for row, padding in zip(out, (0, 11), strict=True):
        logits = module(input_ids=row[None, padding:-1]).logits[0, -60:]
        chosen = logits.gather(1, row[-60:, None])[:, 0]
        assert (logits.max(1).values - chosen).max() < 0.01 * logits.std()


def test_sampling_follows_its_seed_and_a_second_turn_continues(module: Any) -> None:
    prompt = IDS[:1, :20]
    kwargs = {"do_sample": True, "eos_token_id": None, "pad_token_id": 0}
    with attached(module):
        outs = []
        for _ in range(2):
            torch.manual_seed(11)
            cache = cache_for(module)
            first = module.generate(prompt, past_key_values=cache, max_new_tokens=50, **kwargs)
            turn = torch.cat([first, IDS[1:, :30]], 1)
            outs.append(module.generate(turn, past_key_values=cache, max_new_tokens=20, **kwargs))
        assert torch.equal(outs[0], outs[1])
        (row,) = cache.rows
        assert row.seen == cache.get_seq_length() == turn.shape[1] + 19
        # The 20 and the 31 tokens that came in one pass each are prompt, the others generated.
        assert (row.prompt, row.timeline.generated) == (51, row.seen - 51)


def test_a_second_turn_gets_the_positions_of_the_logical_length(module: Any) -> None:
    """Without position_ids the model asks the cache: with 16 bits and no budget nothing is lost."""
    ids = IDS[:1, :120]
    plain = module(input_ids=ids).logits
    with attached(module), torch.inference_mode():
        cache = cache_for(module, formats=formats_of("R16E16T16"), rules=Rules(budget_tokens=None))
        parts = [
            module(input_ids=part, past_key_values=cache, use_cache=True).logits
            for part in ids.split([40, 1, 1, 38, 40], 1)
        ]
    torch.testing.assert_close(torch.cat(parts, 1), plain, rtol=1e-2, atol=2e-3)


def test_beams_crops_and_other_batches_are_refused_with_the_way_out(module: Any) -> None:
    with attached(module):
        with pytest.raises(InputError, match="num_beams=1"):
            module.generate(
                IDS[:1, :8], past_key_values=cache_for(module), num_beams=2, max_new_tokens=4
            )
        cache = cache_for(module)
        module(input_ids=IDS[:, :8], past_key_values=cache)
        with pytest.raises(InputError, match="cannot be cropped"):
            cache.crop(-1)
        with pytest.raises(InputError, match="batch of 1"):
            module(input_ids=IDS[:1, :8], past_key_values=cache)


def test_a_cache_that_the_models_attention_does_not_read_is_refused(module: Any) -> None:
    """Any other attention sees the new tokens alone: the answer would be wrong, without a sign."""
    with attached(module):
        cache = cache_for(module)
        module(input_ids=IDS[:, :20], past_key_values=cache)
    with pytest.raises(InputError, match=r"layer 0 .* inside `with attach"):
        module(input_ids=IDS[:, 20:21], past_key_values=cache)
    with attached(module), pytest.raises(InputError, match="broke off"):
        module(input_ids=IDS[:, 20:21], past_key_values=cache)


def test_a_batch_that_is_refused_leaves_the_cache_as_it_was(module: Any) -> None:
    with attached(module):
        cache, other = cache_for(module), cache_for(module)
        for one in (cache, other):
            module(input_ids=IDS[:, :20], past_key_values=one)
        with pytest.raises(InputError, match="batch of 1"):
            module(input_ids=IDS[:1, 20:30], past_key_values=cache)
        one, two = (module(input_ids=IDS[:, 20:30], past_key_values=x) for x in (cache, other))
    assert torch.equal(one.logits, two.logits)


def test_a_model_that_attends_by_itself_is_refused() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("gptj", n_embd=64, n_layer=2, n_head=4, rotary_dim=8)
    module = AutoModelForCausalLM.from_config(config)
    before = module.config._attn_implementation
    with pytest.raises(InputError, match="gptj does not attend through"), attached(module):
        pass
    assert module.config._attn_implementation == before


def test_models_without_full_attention_are_refused() -> None:
    from transformers import AutoConfig

    with pytest.raises(InputError, match="sliding_attention"):
        refuse(AutoConfig.for_model("gemma2"))
    with pytest.raises(InputError, match="encoder-decoder"):
        refuse(AutoConfig.for_model("t5"))
    with pytest.raises(InputError, match="window of 4096"):
        refuse(AutoConfig.for_model("mistral", sliding_window=4096))
    with pytest.raises(InputError, match="groups of 16"):
        refuse(AutoConfig.for_model("llama", head_dim=20))


def reachable_bytes(root: Any) -> int:
    """Bytes of all torch storages that can be reached from an object, each storage once."""
    storages: dict[int, int] = {}
    waiting, seen = [root], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type) or type(one).__name__ == "module":
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            storage = one.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            continue
        if callable(one) and not hasattr(one, "__dict__"):
            continue
        waiting.extend(
            value
            for value in gc.get_referents(one)
            if not isinstance(value, torch.nn.Module) and not callable(value)
        )
    return sum(storages.values())


@pytest.mark.parametrize("bits", ["R4E4T2", "R8E4T2", "R16E16T16"])
def test_reported_bytes_are_those_of_every_reachable_storage(module: Any, bits: str) -> None:
    with attached(module), torch.inference_mode():
        cache = cache_for(module, formats=formats_of(bits), labeller=THRESHOLDS)
        decode(module, IDS, cache, 16)
        reported = sum(cache.bytes().values())
        assert reachable_bytes(cache) == pytest.approx(reported, rel=0.02)
        labels = {label for row in cache.rows for _, _, label in row.history}
    assert reported > 0 and labels == set(Thought)


def test_the_store_stops_growing_under_a_budget(module: Any) -> None:
    with attached(module), torch.inference_mode():
        cache = cache_for(module, rules=Rules(budget_tokens=144))
        sizes = []
        for start in range(0, 1200, 16):
            part = IDS[:1, start % 384 : start % 384 + 16]
            module(input_ids=part, past_key_values=cache, use_cache=True)
            sizes.append(sum(cache.bytes().values()) - cache.bytes()["scales"])
    (row,) = cache.rows
    assert row.timeline.alive <= max(160, row.settings.rules.floor(row.timeline.generated))
    reused = row.layers[0].pools["nvfp4"].table.reused
    assert reused > 500
    assert sizes[-1] < 2 * sizes[10]


@pytest.mark.parametrize("new", [60, 66, 79])
def test_tokens_that_wait_for_their_group_do_not_make_a_budget_unreachable(
    module: Any, new: int
) -> None:
    params = ThinKVParams(budget_tokens=64, segment_tokens=32)
    kwargs = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with attach(module, params) as thinkv:
        cache = thinkv.new_cache()
        module.generate(IDS[:1, :20], past_key_values=cache, max_new_tokens=new + 1, **kwargs)
        (one,) = thinkv.report()["sequences"]
    generated = one["physical_tokens"] - 20
    assert generated <= 64 + 15 and one["floor_tokens"] - 20 <= 64
    assert (generated > 64) == (new > 64) and not one["budget_unreachable"]


def test_not_a_number_is_named_by_layer_and_position(module: Any) -> None:
    with attached(module), torch.inference_mode():
        cache = cache_for(module)
        module(input_ids=IDS[:1, :20], past_key_values=cache)
        module.model.layers[1].self_attn.k_proj.weight[0, 0] = torch.nan
        with pytest.raises(ComponentError, match=r"layer 1: .*position 20 "):
            decode(module, IDS[:1, 20:60], cache, 16)


def test_oracle_labels_decide_each_segments_format(module: Any) -> None:
    labels = (Thought.REASONING, Thought.TRANSITION, Thought.EXECUTION, Thought.TRANSITION)
    with attached(module), torch.inference_mode():
        cache = cache_for(
            module,
            labeller=Labeller(labels=labels),
            rules=Rules(segment_tokens=32, budget_tokens=None),
            prompt_tokens=0,
        )
        decode(module, IDS[:1, :128], cache, 16)
    (row,) = cache.rows
    assert [segment.thought for segment in row.timeline.segments] == list(labels)
    store = row.layers[0]
    assert store is not None
    assert {name: int(pool.table.live.sum()) for name, pool in store.pools.items()} == {
        "nvfp4": 64,  # R after two transitions: min(32, 32), E after one: min(32, 64)
        "ternary": 64,
    }
