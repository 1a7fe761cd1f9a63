"""Transfers share links fairly, and everything that is sent arrives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_sim.events import Events
from hermes_sim.links import SharedLinks, fair_rates

LINKS = {"a": 10.0, "b": 4.0, "c": 7.0}
routes = st.lists(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True).map(tuple),
    min_size=1, max_size=8,
)  # fmt: skip


@given(routes)
def test_rates_are_max_min_fair(ways):
    rates = fair_rates(ways, LINKS)
    for link, capacity in LINKS.items():
        assert sum(r for r, way in zip(rates, ways, strict=True) if link in way) <= capacity + 1e-9
    for rate, way in zip(rates, ways, strict=True):
        # Somewhere on its way a link is full, and nobody there is faster.
        assert any(
            sum(r for r, w in zip(rates, ways, strict=True) if link in w) >= LINKS[link] - 1e-9
            and all(r <= rate + 1e-9 for r, w in zip(rates, ways, strict=True) if link in w)
            for link in way
        )


@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.sampled_from(["a", "b"]), st.floats(0, 50)),
        min_size=1, max_size=10,
    )
)  # fmt: skip
def test_every_byte_arrives_and_no_link_moves_more_than_it_can(sends):
    events, arrived = Events(), {}
    links = SharedLinks(events, dict(LINKS))
    for i, (at, link, size) in enumerate(sends):
        events.push(
            at, 1, lambda now, _, i=i, link=link, size=size: links.send(
                (link,), size, 0.0, now, lambda then: arrived.setdefault(i, then)
            ),
        )  # fmt: skip
    events.run(10**18)
    assert len(arrived) == len(sends) and not links.on_way
    for name in "ab":
        sizes = [size for _, link, size in sends if link == name]
        if sum(sizes) > 1e-6:
            first = min(at for at, link, _ in sends if link == name)
            last = max(arrived[i] for i, (_, link, _) in enumerate(sends) if link == name)
            assert (last - first) / 1e9 >= sum(sizes) / LINKS[name] - 1e-6


def test_two_transfers_halve_a_link_and_a_cancelled_one_gives_it_back():
    events, arrived = Events(), []
    links = SharedLinks(events, {"a": 10.0})
    links.send(("a",), 10.0, 0.25, 0, arrived.append)
    second = links.send(("a",), 10.0, 0.25, 0, arrived.append)
    events.push(1_000_000_000, 1, lambda now, _: links.cancel(second, now))
    events.run(10**12)
    # 5 bytes in the first second, the other 5 in half a second, then the latency.
    assert arrived == [pytest.approx(1_750_000_000, abs=2)]
