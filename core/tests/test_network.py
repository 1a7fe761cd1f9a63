"""Topologies, routes, collective times: properties of any alpha-beta model, and worked numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crosslayer.contracts.network import (
    COLLECTIVES,
    Link,
    Topology,
    collective_bytes,
    collective_seconds,
)
from crosslayer.errors import InputError

RATES = st.floats(1e6, 1e12)
LATENCIES = st.one_of(st.just(0.0), st.floats(1e-9, 1e-2))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def topologies(draw: st.DrawFn, one_way: bool = False, names: Any = None) -> Topology:
    """A connected random topology: a tree and some more links."""
    count = draw(st.integers(1, 6))
    nodes = [f"n{i}" for i in range(count)]
    if names is not None:
        nodes = draw(st.lists(names, min_size=count, max_size=count, unique=True))
    ends = {(draw(st.integers(0, i - 1)), i) for i in range(1, count)}
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    ends |= set(draw(st.lists(st.sampled_from(pairs), max_size=5))) if pairs else set()
    links = [
        Link(
            a=nodes[i], b=nodes[j], bytes_per_s=draw(RATES), latency_s=draw(LATENCIES),
            one_way=one_way and draw(st.booleans()), source=draw(TEXT),
        )
        for i, j in sorted(ends)
    ]  # fmt: skip
    return Topology(nodes=tuple(nodes), links=tuple(links), name=draw(TEXT), source=draw(TEXT))


@settings(max_examples=60, deadline=None)
@given(topologies(one_way=True, names=TEXT.filter(bool)))
def test_toml_gives_back_the_very_same_topology(topology: Topology) -> None:
    assert Topology.from_toml(topology.to_toml()) == topology
    assert Topology.from_json(topology.to_json()) == topology


@settings(max_examples=60, deadline=None)
@given(topologies(), st.floats(0, 1e9))
def test_routes_are_symmetric_and_their_latency_keeps_the_triangle(
    topology: Topology, payload: float
) -> None:
    nodes = topology.nodes
    for a in nodes:
        assert topology.transfer_seconds(a, a, payload) == 0
        for b in nodes:
            there, back = topology.route(a, b), topology.route(b, a)
            assert there.latency_s == back.latency_s and there.bytes_per_s == back.bytes_per_s
            assert there.seconds(payload) == back.seconds(payload) >= there.latency_s
            assert len(set(there.nodes)) == len(there.nodes)
            for c in nodes:
                detour = topology.route(a, c).latency_s + topology.route(c, b).latency_s
                assert there.latency_s <= detour * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(topologies())
def test_a_route_is_made_of_links_and_adds_them_up(topology: Topology) -> None:
    for a in topology.nodes:
        for b in topology.nodes:
            route = topology.route(a, b)
            pairs = zip(route.nodes, route.nodes[1:], strict=False)
            links = [topology.neighbours[x][y] for x, y in pairs]
            assert (route.nodes[0], route.nodes[-1]) == (a, b)
            assert route.latency_s == pytest.approx(sum(k.latency_s for k in links), abs=1e-17)
            assert route.bytes_per_s == min((k.bytes_per_s for k in links), default=None)


def test_the_way_of_least_latency_wins_then_the_fewest_links_then_the_fastest() -> None:
    def link(a: str, b: str, rate: float, latency: float) -> Link:
        return Link(a=a, b=b, bytes_per_s=rate, latency_s=latency)

    links = (link("a", "c", 9e9, 5e-6), link("a", "b", 1, 1e-6), link("b", "c", 1, 3e-6))
    short = Topology(nodes=("a", "b", "c"), links=links)
    assert short.route("a", "c").nodes == ("a", "b", "c")
    assert short.transfer_seconds("a", "c", 2) == pytest.approx(4e-6 + 2)
    direct = short.replace(links=(link("a", "c", 1, 4e-6), *short.links[1:]))
    assert direct.route("a", "c").nodes == ("a", "c")
    ends = [("a", "b"), ("b", "d"), ("a", "c"), ("c", "d")]
    diamond = Topology(
        nodes=("a", "b", "c", "d"),
        links=tuple(link(a, b, 1e9 if "c" in (a, b) else 1e6, 1e-6) for a, b in ends),
    )
    assert diamond.route("a", "d").nodes == ("a", "c", "d")
    assert diamond.route("d", "a").nodes == ("d", "c", "a")


def test_presets_have_the_links_of_their_names() -> None:
    ring = Topology.ring(5, 1e9, 1e-6)
    assert len(ring.links) == 5 and len(ring.route("0", "2").nodes) == 3
    assert len(ring.route("0", "4").nodes) == 2
    assert [len(Topology.ring(n, 1e9, 0).links) for n in (1, 2, 3)] == [0, 1, 3]
    star = Topology.star(("x", "y", "z"), 1e9, 1e-6)
    assert star.route("x", "z").nodes == ("x", "switch", "z")
    assert star.transfer_seconds("x", "z", 1e6) == pytest.approx(2e-6 + 1e-3)
    mesh = Topology.full_mesh(6, 1e9, 1e-6)
    assert len(mesh.links) == 15
    assert all(len(mesh.route(a, b).nodes) <= 2 for a in mesh.nodes for b in mesh.nodes)


def test_a_one_way_link_is_no_way_back() -> None:
    link = Link(a="a", b="b", bytes_per_s=1e9, latency_s=0, one_way=True)
    topology = Topology(nodes=("a", "b"), links=(link,))
    assert topology.route("a", "b").nodes == ("a", "b")
    with pytest.raises(InputError, match="no way leads from 'b' to 'a'"):
        topology.route("b", "a")
    both = topology.replace(
        links=(link, Link(a="b", b="a", bytes_per_s=1e6, latency_s=0, one_way=True))
    )
    assert both.route("b", "a").bytes_per_s == 1e6


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ("a = 'n1'\nb = 'n9'", "fabric.toml: topology: a link names no node 'n9'; known: n1, n2"),
        ("a = 'n1'\nb = 'n1'", "joins 'n1' to itself"),
        ("a = 'n1'\nb = 'n2'\nbandwidth = 3", r"fabric.toml.links.0.bandwidth: Extra inputs"),
        ("a = 'n1'", r"fabric.toml.links.0.b: Field required"),
        ("a = ", r"fabric.toml: Invalid value"),
    ],
)
def test_a_broken_file_is_named_with_its_key(links: str, said: str) -> None:
    text = f"nodes = ['n1', 'n2']\n[[links]]\nbytes_per_s = 1.0\nlatency_s = 0\n{links}\n"
    with pytest.raises(InputError, match=said):
        Topology.from_toml(text, "fabric.toml")


def test_figures_below_zero_and_links_twice_are_refused() -> None:
    with pytest.raises(InputError, match=r"links.0.bytes_per_s: Input should be greater than 0"):
        text = Topology.ring(2, 1.0, 0).to_toml().replace("bytes_per_s = 1.0", "bytes_per_s = 0.0")
        Topology.from_toml(text)
    ring = Topology.ring(3, 1.0, 0)
    with pytest.raises(ValidationError, match="two links go from '0' to '1'"):
        ring.replace(links=(*ring.links, ring.links[0]))
    with pytest.raises(ValidationError, match="node 'a' is listed twice"):
        Topology(nodes=("a", "a"))
    with pytest.raises(InputError, match="no node '7'"):
        ring.route("7", "0")
    with pytest.raises(InputError, match="payload_bytes must not be below 0"):
        ring.transfer_seconds("0", "1", -1)


# n = 4 devices, S = 12 bytes, B = 2 bytes/s, alpha = 1 s; by hand from the steps of each algorithm:
# ring: 3 steps of 3 bytes (1.5 s + 1 s each), all-reduce twice that; binomial tree: 2 steps of 12.
@pytest.mark.parametrize(
    ("kind", "seconds", "sent"),
    [
        ("all_reduce", 15.0, 18.0), ("all_gather", 7.5, 9.0), ("reduce_scatter", 7.5, 9.0),
        ("all_to_all", 7.5, 9.0), ("broadcast", 14.0, 24.0), ("send", 7.0, 12.0),
    ],
)  # fmt: skip
def test_collectives_take_the_time_of_their_steps(kind: str, seconds: float, sent: float) -> None:
    assert collective_seconds(kind, 12, 4, 2, 1) == seconds
    assert collective_bytes(kind, 12, 4) == sent


ARGUMENTS = (
    st.sampled_from(COLLECTIVES),
    st.floats(0, 1e12),
    st.integers(1, 4096),
    RATES,
    LATENCIES,
)


@settings(max_examples=100, deadline=None)
@given(*ARGUMENTS)
def test_collectives_grow_with_load_and_size_and_cost_nothing_alone(
    kind: str, payload: float, devices: int, rate: float, latency: float
) -> None:
    seconds = collective_seconds(kind, payload, devices, rate, latency)
    assert collective_seconds(kind, payload, 1, rate, latency) == 0 <= seconds
    assert collective_seconds(kind, 2 * payload, devices, rate, latency) >= seconds
    assert collective_seconds(kind, payload, devices + 1, rate, latency) >= seconds
    assert collective_seconds(kind, payload, devices, 2 * rate, latency) <= seconds
    assert collective_seconds(kind, payload, devices, rate, 2 * latency) >= seconds
    # What the busiest link carries takes at least its time.
    assert seconds >= collective_bytes(kind, payload, devices) / rate * (1 - 1e-12)


@settings(max_examples=60, deadline=None)
@given(*ARGUMENTS[1:])
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(
    payload: float, devices: int, rate: float, latency: float
) -> None:
    both = [collective_seconds(k, payload, devices, rate, latency) for k in COLLECTIVES[1:3]]
    assert collective_seconds("all_reduce", payload, devices, rate, latency) == pytest.approx(
        sum(both)
    )
    # Conservation: all devices together receive n - 1 shards of every other's payload, twice.
    sent = devices * collective_bytes("all_reduce", payload, devices)
    assert sent == pytest.approx(2 * (devices - 1) * payload)


def test_columns_give_what_single_numbers_give() -> None:
    payload = np.array([0.0, 1e3, 1e9])
    devices = np.array([2, 8, 5])
    for kind in COLLECTIVES:
        column = collective_seconds(kind, payload, devices, 1e9, 1e-6)
        rows = [
            collective_seconds(kind, p, int(n), 1e9, 1e-6)
            for p, n in zip(payload, devices, strict=True)
        ]
        assert column.tolist() == rows and all(isinstance(row, float) for row in rows)
    assert Topology.ring(3, 1e9, 0).transfer_seconds("0", "1", payload).tolist() == [0, 1e-6, 1]


def test_a_collective_on_a_topology_runs_at_its_slowest_neighbours_pace() -> None:
    ring = Topology.ring(4, 1e9, 1e-6)
    slow = ring.replace(links=(ring.links[0].replace(bytes_per_s=1e8), *ring.links[1:]))
    for kind in COLLECTIVES:
        even = ring.collective_seconds(kind, 1e6, ring.nodes)
        assert even == collective_seconds(kind, 1e6, 4, 1e9, 1e-6)
        assert slow.collective_seconds(kind, 1e6, ring.nodes) == collective_seconds(
            kind, 1e6, 4, 1e8, 1e-6
        )
    assert ring.collective_seconds("all_reduce", 1e6, ("2",)) == 0
    with pytest.raises(InputError, match="takes part twice"):
        ring.collective_seconds("all_reduce", 1e6, ("2", "2"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("all_reduc", 1, 2, 1, 1), r"no collective 'all_reduc'; did you mean 'all_reduce'\?"),
        (("send", 1, 0, 1, 1), "0 devices; at least one"),
        (("send", -1, 2, 1, 1), "payload_bytes must not be below 0"),
        (("send", 1, 2, 0, 1), "bytes_per_s must be above 0"),
        (("send", 1, 2, 1, -1), "latency_s must not be below 0"),
    ],
)
def test_an_impossible_collective_is_refused(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        collective_seconds(*arguments)
