"""A live model as a backend: batches against single calls and against a loop without a cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from live_cases import GEMMA2, GPT2, LLAMA, MAMBA, QWEN2
from real_assets import fetched

from crosslayer.backends import TransformersBackend
from crosslayer.backends.protocol import Generation, Prompt, Sample, Usage, prompt
from crosslayer.contracts.calls import Message
from crosslayer.errors import ComponentError, InputError
from crosslayer.kinds import LiveModel
from crosslayer.models.live_params import LiveParams
from crosslayer.models.random_model import random_model
from crosslayer.models.smollm2 import smollm2
from crosslayer.progress import Progress

torch = pytest.importorskip("torch")
TOKENS = 10


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models() -> dict[str, LiveModel]:
    """Each family's model once."""
    made = {}
    for config in (LLAMA, QWEN2, GEMMA2, GPT2, MAMBA):
        live = random_model(config, seed=1).live
        assert live is not None
        made[config["model_type"]] = live
    return made


@pytest.fixture(scope="module")
def llama(models: dict[str, LiveModel]) -> LiveModel:
    return models["llama"]


def one_by_one(live: LiveModel, asked: Prompt) -> list[Sample]:
    """Each sample in a call of its own, by a backend that has read nothing yet."""
    return [
        TransformersBackend(live, "m")
        .generate([Prompt(messages=asked.messages, sampling=single)])[0]
        .samples[0]
        for single in asked.sampling.singly()
    ]


def same(one: Sample, other: Sample) -> bool:
    """Equal but for the rounding of logprobs, which the batch's shape changes."""
    ours, theirs = one.logprobs or (), other.logprobs or ()
    values = [[each.logprob for each in logprobs] for logprobs in (ours, theirs)]
    return one.model_copy(update={"logprobs": None}) == other.model_copy(
        update={"logprobs": None}
    ) and bool(np.allclose(*values, atol=1e-3))


def forwards(live: LiveModel, sizes: list[tuple[int, int]]) -> Any:
    """Notes the (rows, tokens) of every pass of the model; remove it when done."""

    def note(module: Any, args: Any, given: dict[str, Any]) -> None:
        sizes.append(tuple(given["input_ids"].shape))  # type: ignore[arg-type]

    return live.module.register_forward_pre_hook(note, with_kwargs=True)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mamba"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_four_samples_of_one_call_are_those_of_four_calls(
    models: dict[str, LiveModel], family: str, temperature: float
) -> None:
    live = models[family]
    asked = prompt(
        "To be, or", temperature=temperature, seed=5, n=4, max_tokens=TOKENS, logprobs=True
    )
    together = TransformersBackend(live, "m").generate([asked])[0].samples
    for one, alone in zip(together, one_by_one(live, asked), strict=True):
        assert same(one, alone)
    texts = {one.text for one in together}
    assert len(texts) == (1 if temperature == 0 else 4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_sample_is_what_a_plain_loop_without_cache_or_batch_draws(
    models: dict[str, LiveModel], family: str
) -> None:
    live = models[family]
    asked = [
        prompt(text, temperature=0.8, seed=seed, n=2, max_tokens=TOKENS, logprobs=True)
        for seed, text in enumerate(
            ("a", "a prompt that is longer than a window of 16", "and one between")
        )
    ]
    made = TransformersBackend(live, "m", rows=4).generate(asked)
    for question, generation in zip(asked, made, strict=True):
        ids = list(question.messages[0].content.encode())
        assert generation.prompt_tokens == len(ids)
        for seed, sample in zip(question.sampling.seeds, generation.samples, strict=True):
            rng, said, logprobs = np.random.default_rng(seed), list(ids), []
            for _ in range(sample.tokens):
                with torch.inference_mode():
                    logits = live.module(torch.tensor([said])).logits[0, -1].double()
                mass = torch.softmax(logits / 0.8, -1).cumsum(-1).numpy()
                token = int((mass <= rng.random() * mass[-1]).sum())
                logprobs.append(float(torch.log_softmax(logits, -1)[token]))
                said.append(token)
            text = live.tokenizer.decode(said[len(ids) :], skip_special_tokens=True)
            assert sample.text == text
            assert sample.logprobs is not None
            assert np.allclose([one.logprob for one in sample.logprobs], logprobs, atol=1e-3)


def test_neighbours_and_a_shared_beginning_change_no_sample(llama: LiveModel) -> None:
    beginning = "a system prompt that every question begins with: "
    asked = [
        prompt(beginning + text, temperature=1.0, seed=i, n=2, max_tokens=TOKENS)
        for i, text in enumerate(("why?", "a longer question, how?", "x"))
    ]
    sizes: list[tuple[int, int]] = []
    hook = forwards(llama, sizes)
    made = TransformersBackend(llama, "m").generate(asked)
    hook.remove()
    assert sizes[0] == (1, len(beginning))  # read once
    assert sizes[1] == (3, len("a longer question, how?"))
    for question, generation in zip(asked, made, strict=True):
        assert list(generation.samples) == one_by_one(llama, question)
    # prompts of which one begins another: that one keeps a token of its own
    nested = [prompt(beginning + more, max_tokens=3) for more in ("", "and", "and so on")]
    made = TransformersBackend(llama, "m").generate(nested)
    for question, generation in zip(nested, made, strict=True):
        assert list(generation.samples) == one_by_one(llama, question)


def test_a_prompt_is_read_once_for_all_its_samples(llama: LiveModel) -> None:
    asked = prompt("x" * 50, temperature=1.0, seed=1, n=6, max_tokens=4)
    backend = TransformersBackend(llama, "m", rows=4)
    sizes: list[tuple[int, int]] = []
    hook = forwards(llama, sizes)
    first = backend.generate([asked])
    again = backend.generate([asked])  # also in the next call, as a policy asks them
    hook.remove()
    assert first == again
    assert sizes.count((1, 50)) == 1
    assert max(tokens for _, tokens in sizes[1:]) == 1
    assert max(rows for rows, _ in sizes) == 4
    total = 2 * sum(one.tokens for one in first[0].samples)
    assert backend.usage() == Usage(samples=12, prompt_tokens=100, output_tokens=total)


def test_a_stop_text_ends_a_sample_across_tokens(llama: LiveModel) -> None:
    backend = TransformersBackend(llama, "m")

    def ask(seed: int, stop: tuple[str, ...] = ()) -> Sample:
        asked = prompt("once", temperature=1.5, seed=seed, max_tokens=40, stop=stop, logprobs=True)
        return backend.generate([asked])[0].samples[0]

    for seed in range(40):  # the first seed that says two letters in a row, later than at once
        whole = ask(seed)
        at = [
            i
            for i in range(3, len(whole.text) - 1)
            if whole.text[i : i + 2].isascii() and "�" not in whole.text[: i + 2]
        ]
        if at:
            break
    i = whole.text.find(whole.text[at[0] : at[0] + 2])
    stop = whole.text[i : i + 2]
    cut = ask(seed, ("never said", stop))
    assert cut.text == whole.text[:i]
    assert cut.finish_reason == "stop"
    # its tokens are counted up to the last letter of the stop text, and no further
    assert cut.logprobs is not None
    assert whole.logprobs is not None
    assert cut.logprobs == whole.logprobs[: cut.tokens]
    said = [one.token for one in cut.logprobs]
    assert said[-1] == stop[1]
    assert stop not in "".join(said[:-1])
    assert cut.tokens < whole.tokens


def test_an_end_token_ends_a_sample_and_is_counted(models: dict[str, LiveModel]) -> None:
    backend = TransformersBackend(models["qwen2"], "m")
    asked = prompt("abc def", temperature=1.0, seed=5, n=8, max_tokens=40, logprobs=True)
    samples = backend.generate([asked])[0].samples
    ended = [one for one in samples if one.finish_reason == "stop"]
    assert ended
    assert len(ended) < len(samples)
    for one in samples:
        assert one.logprobs is not None
        assert len(one.logprobs) == one.tokens
    for one in ended:
        assert one.logprobs is not None
        assert one.logprobs[-1].token == "<end>"
        assert "<end>" not in one.text
        assert one.tokens < 40


def test_a_full_context_ends_a_sample_and_a_longer_prompt_is_refused(llama: LiveModel) -> None:
    backend = TransformersBackend(llama, "m")
    made = backend.generate([prompt("y" * 120, max_tokens=100)])[0].samples[0]
    assert (made.tokens, made.finish_reason) == (8, "length")
    with pytest.raises(InputError, match=r"prompt 1 has 128 tokens, and m reads 128 together"):
        backend.generate([prompt("y"), prompt("y" * 128)])
    with pytest.raises(InputError, match="without a token"):
        backend.generate([prompt("")])


def test_a_chat_template_is_used_where_there_is_one(llama: LiveModel) -> None:
    backend = TransformersBackend(llama, "m")
    talk = (Message(role="system", content="be"), Message(role="user", content="hi"))
    assert bytes(backend.prompt_ids(talk)) == b"system: be\nuser: hi\nassistant:"
    assert bytes(backend.prompt_ids(talk[1:])) == b"hi"
    templated = random_model(LLAMA, seed=1).live
    assert templated is not None
    templated.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}"
        "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    backend = TransformersBackend(templated, "m")
    assert bytes(backend.prompt_ids(talk)) == b"[system]be[user]hi[assistant]"
    assert backend.count_tokens(talk) == 29
    with pytest.raises(InputError, match=r"template of m refuses messages of tool: no tools"):
        backend.prompt_ids((Message(role="tool", content="x"),))


def test_a_cache_of_its_own_is_fed_in_its_pieces_sample_by_sample(llama: LiveModel) -> None:
    from transformers import DynamicCache

    class Counted(DynamicCache):
        made = 0

        def __init__(self) -> None:
            Counted.made += 1
            super().__init__()

    own = llama.with_module(  # type: ignore[attr-defined]
        llama.module, new_cache=lambda module: Counted(), chunk_tokens=4
    )
    asked = prompt("ten tokens", temperature=1.0, seed=3, n=3, max_tokens=TOKENS)
    sizes: list[tuple[int, int]] = []
    hook = forwards(own, sizes)
    made = TransformersBackend(own, "m").generate([asked])[0]
    hook.remove()
    assert sizes[:4] == [(1, 4), (1, 4), (1, 2), (1, 1)]
    assert sizes.count((1, 2)) == 3  # nobody knows how to copy such a cache
    assert {rows for rows, _ in sizes} == {1}
    assert Counted.made >= 3
    assert list(made.samples) == one_by_one(llama, asked)


def test_broken_weights_are_said(llama: LiveModel) -> None:
    broken = llama.copy()
    with torch.no_grad():
        next(broken.module.parameters()).fill_(float("nan"))
    with pytest.raises(ComponentError, match="not finite"):
        TransformersBackend(broken, "m").generate([prompt("x")])


@pytest.mark.network
def test_smollm2_answers_in_a_batch_as_alone() -> None:
    fetched("smollm2-135m")
    live = smollm2(LiveParams(), Progress()).live
    assert live is not None
    asked = [
        prompt("What is the capital of France? Answer in one word.", max_tokens=6),
        prompt("Name a colour.", temperature=0.7, seed=1, n=2, max_tokens=3),
    ]
    made: list[Generation] = list(TransformersBackend(live, "smollm2").generate(asked))
    assert "Paris" in made[0].text
    assert made[0].prompt_tokens > 20  # the template's own words are read, and counted
    assert list(made[1].samples) == one_by_one(live, asked[1])
