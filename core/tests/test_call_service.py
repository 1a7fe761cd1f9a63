"""The core's own service: each call alone, priced by a function or by a stack's step costs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from crosslayer.call_service import IsolatedService, stack_pool, stack_seconds
from crosslayer.contracts import ops
from crosslayer.contracts.cost import Cost
from crosslayer.contracts.hardware import HardwareSpec
from crosslayer.contracts.lowering import StepShape
from crosslayer.contracts.model import Attention, Block, Embedding, Linear, ModelSpec
from crosslayer.contracts.requests import LLMCall, single
from crosslayer.contracts.serving import Quality
from crosslayer.errors import InputError
from crosslayer.kinds import Instance, ModelArtifact, Stack


def call(id: str, tokens: int | None = 10, prompt: int = 100, model: str | None = None) -> LLMCall:
    return LLMCall(id=id, prompt_tokens=prompt, output_tokens=tokens, model=model)


def by_length() -> IsolatedService:
    return IsolatedService(lambda call: (1e-9, 1e-9 * (call.output_tokens or 0)))


def test_calls_do_not_feel_each_other_and_advance_stops_at_the_first_end() -> None:
    service = by_length()
    service.submit(call("slow", 30), 0)
    service.submit(call("fast", 10), 5)
    service.submit(call("too", 15), 0)
    now, finished = service.advance(100)
    assert now == 15 and [c.call_id for c in finished] == ["fast", "too"]
    fast = finished[0]
    assert (fast.submitted_ns, fast.started_ns, fast.first_token_ns) == (5, 5, 6)
    assert service.advance(29) == (29, ())
    assert service.advance(100)[0] == 30
    assert service.advance(100) == (100, ())


def test_a_cancelled_call_never_reports_and_is_cancelled_once() -> None:
    service = by_length()
    service.submit(call("a", 10), 0)
    service.submit(call("b", 20), 0)
    assert service.cancel("a") and not service.cancel("a") and not service.cancel("never")
    now, (finished,) = service.advance(100)
    assert (now, finished.call_id) == (20, "b") and not service.cancel("b")
    service.submit(call("a", 5), 20)  # the old entry of the same id ends nothing
    assert service.advance(100)[0] == 25


def test_a_running_call_has_made_the_tokens_of_the_time_that_is_gone() -> None:
    service = IsolatedService(lambda call: (100e-9, 100e-9 + 10e-9 * (call.output_tokens or 0)))
    service.submit(call("a", 11), 0)  # the first token at 100, the last at 210
    service.submit(call("none", 0), 0)
    made = []
    for now in (50, 99, 100, 110, 111, 209):
        service.advance(now)
        made.append(service.made_tokens("a"))
    assert made == [0, 0, 1, 1, 2, 10]
    service.advance(250)
    assert service.made_tokens("a") == 0  # it is over


def test_what_cannot_be_priced_is_named() -> None:
    service = by_length()
    service.advance(7)
    with pytest.raises(InputError, match="'a' comes at 6 ns, but it is 7 ns already"):
        service.submit(call("a"), 6)
    with pytest.raises(InputError, match="'a' has no output_tokens"):
        service.submit(call("a", None), 7)
    service.submit(call("a"), 7)
    with pytest.raises(InputError, match="id 'a' is in use"):
        service.submit(call("a"), 7)
    backwards = IsolatedService(lambda call: (2.0, 1.0))
    with pytest.raises(InputError, match=r"2.0 s to its first token of 1.0 s"):
        backwards.submit(call("a"), 0)


@dataclass(frozen=True)
class Slow:
    """An accelerator that moves a byte a nanosecond."""

    def supports(self, op: ops.Op) -> bool:
        return True

    def estimate(self, op: ops.Op) -> Cost:
        return Cost(seconds=1e-9 * ops.moved_bytes(op))

    def describe(self) -> HardwareSpec:
        return HardwareSpec(name="slow")


def instance(name: str = "m", width: int = 32) -> Instance:
    parts = (
        Linear(name="qkv", inputs=width, outputs=3 * width),
        Attention(name="attention", heads=2, kv_heads=2, head_dim=width // 2),
    )
    head = Linear(name="head", inputs=width, outputs=50, rows="logits")
    blocks = (
        Block(name="embed", parts=(Embedding(name="tokens", entries=50, width=width),)),
        Block(name="layer", parts=parts),
        Block(name="head", parts=(head,)),
    )
    spec = ModelSpec(name="toy", hidden=width, blocks=blocks)
    return Instance(name=name, model=ModelArtifact(spec=spec), accelerator=Slow())


def test_a_call_costs_one_prefill_and_a_decode_for_each_further_token() -> None:
    stack = Stack(instances=(instance(),))
    spec = stack.instances[0].model.spec

    def step(new: int, cached: int, generated: int) -> float:
        shape = StepShape.from_sequences(spec, [(new, cached, generated)])
        return stack.step_cost(stack.instances[0], shape).seconds

    first, total = stack_seconds(stack)(call("c", tokens=4, prompt=9))
    decodes = [step(1, 9, generated) for generated in range(3)]
    assert first == pytest.approx(step(9, 0, 0)) and first > 0
    assert total == pytest.approx(first + sum(decodes)) and decodes[0] < decodes[2]
    for tokens in (0, 1):  # the prefill makes the first token
        assert stack_seconds(stack)(call("c", tokens, prompt=9)) == (first, first)


def test_a_stack_serves_a_trace_alone_on_its_instances() -> None:
    stack = Stack(instances=(instance("small"), instance("large", 64)))
    requests = [
        single(str(i), 1000 * i, 20, 5).replace(nodes=(call("call", 5, 20, model),))
        for i, model in enumerate(("small", "large", "small"))
    ]
    served = stack.serve(requests, IsolatedService.for_stack(stack))
    seconds = [one.seconds for one in served]
    assert seconds[0] == pytest.approx(seconds[2], abs=1e-9) and seconds[1] > seconds[0]
    assert [one.results[0].finished.instance for one in served] == ["small", "large", "small"]
    expected = stack_seconds(stack)(call("c", 5, 20, "large"))[1]
    assert seconds[1] == pytest.approx(expected, abs=2e-9)


def test_the_pool_of_a_stack_predicts_what_the_service_takes() -> None:
    stack = Stack(instances=(instance("a"), instance("b", 64)))
    quality = Quality(value=0.5, samples=10, data="toy")
    pool = stack_pool(stack, {"b": quality}, prompt_tokens=(8, 32), output_tokens=(1, 16))
    assert pool.names == ("a", "b") and pool.member("b").quality == quality
    for name in pool.names:
        for prompt, output in ((8, 1), (32, 16), (8, 16)):
            alone = stack_seconds(stack)(call("c", output, prompt, name))[1]
            assert pool.member(name).predicted_seconds(prompt, output) == pytest.approx(alone)
    blind = Stack(instances=(Instance(name="x", model=instance().model),))
    assert stack_pool(blind).member("x").call_seconds is None
    prefill = Stack(instances=(Instance(name="x", model=instance().model, role="prefill"),))
    with pytest.raises(InputError, match="'x' has the role 'prefill'"):
        stack_pool(prefill)


def test_an_unknown_instance_or_an_empty_prompt_has_no_price() -> None:
    stack = Stack(instances=(instance("small"), instance("large")))
    with pytest.raises(InputError, match=r"no instance 'smal'; did you mean 'small'\?"):
        stack_seconds(stack)(call("c", model="smal"))
    with pytest.raises(InputError, match="without a prompt"):
        stack_seconds(stack)(call("c", prompt=0, model="small"))
