"""From a stack and parameters to a cluster that can run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from crosslayer.contracts.model import Attention
from crosslayer.errors import InputError
from hermes_sim.admission import Site
from hermes_sim.batching import Batching, batching
from hermes_sim.blocks import Blocks
from hermes_sim.calls import Call
from hermes_sim.client import Client
from hermes_sim.cluster import Cluster, Group
from hermes_sim.events import Events
from hermes_sim.hand_off import HandOff
from hermes_sim.known_models import shape_of
from hermes_sim.links import SharedLinks
from hermes_sim.pipelined import client_of
from hermes_sim.readers.kernel_bundle import LINK, Shape
from hermes_sim.readers.profiles import read_profile
from hermes_sim.readers.splitwise_profile import read_splitwise_profile
from hermes_sim.readers.vidur_network import read_link
from hermes_sim.replay import UNLIMITED
from hermes_sim.router import Choose, router
from hermes_sim.step_models.fitted import read_fit
from hermes_sim.step_models.lowered import LoweredSteps
from hermes_sim.step_models.protocol import StepModel
from hermes_sim.step_models.speculative import Speculative, tokens_a_step
from hermes_sim.step_models.staged import Send, Staged, activation_bytes, lowered_stages
from hermes_sim.tape import Tape
from hermes_sim.tiers import Tiers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from crosslayer.kinds import Instance, Stack
from hermes_sim.params import HermesParams


def build(stack: Stack, params: HermesParams, seed: int) -> tuple[Cluster, Tape, list[str]]:
    """The cluster, its tape, and notes about what was derived.

    Errors: InputError for a stack without instances, one that does not fit its memory, roles that
    lack their counterpart.
    """
    if not stack.instances:
        raise InputError("hermes needs an instance; add a [model] and an [accelerator]")
    events, tape, notes = Events(), Tape(params.trace_steps), list[str]()
    if params.speculation is not None:
        drafts = params.speculation
        made = tokens_a_step(drafts.tokens, drafts.acceptance)
        notes.append(
            f"Speculative decoding: {drafts.tokens} drafted tokens, each accepted with"
            f" {drafts.acceptance:g} (given, not measured): {made:.3f} tokens a step."
        )
    rng = np.random.default_rng(seed)
    cluster = Cluster(
        events, {}, router(params.router, rng, params.split_tokens),
        context_tokens=params.context_tokens,
    )  # fmt: skip
    rules = batching(
        params.scheduler, params.max_calls, params.token_budget, params.prefix_caching, params.queue
    )
    cluster.clients = [
        _client(i, stack, instance, params, rules, cluster, tape, notes)
        for i, instance in enumerate(stack.instances)
    ]
    cluster.groups = groups_of(stack, cluster.clients)
    pick = router(params.decode_router or params.router, rng, params.split_tokens)
    local = params.hand_off_scope == "local"
    cluster.choose_decode = _pairs(cluster) if local else pick
    links = SharedLinks(events)
    cluster.hand_off = HandOff(
        cluster, links, stack.network, params.hand_off_bytes_per_s,
        layerwise=params.hand_off == "layerwise",
    )  # fmt: skip
    if params.tiers:
        cluster.tiers = Tiers(
            params.tiers, cluster.clients, events, always=params.tier_policy == "always"
        )
    return cluster, tape, notes


def _client(
    index: int, stack: Stack, instance: Instance, params: HermesParams, rules: Batching,
    cluster: Cluster, tape: Tape, notes: list[str],
) -> Client:  # fmt: skip
    spec = instance.model.spec
    steps = step_model(stack, instance, params)
    plain = all(
        one.causal and one.window is None and one.kv_curve is None for one in spec.attention_classes
    )
    size = instance.kv_block_tokens
    per_token = spec.kv_bytes(size, 0) / size
    blocks = instance.kv_blocks
    if blocks is None:
        blocks = _blocks(instance, per_token * size, params, notes)
    demand = None
    if not plain:
        rules = replace(rules, reserve=True, prefix_caching=False)
        notes.append(
            f"{instance.name}: its cache does not grow by the token, so a call takes the blocks of"
            " its largest size at admission, and prefixes are not shared"
        )

        def demand(prompt: int, output: int) -> int:
            most = max(spec.kv_bytes(prompt, 0), spec.kv_bytes(prompt, output))
            return max(1, -int(-most // per_token)) if per_token else 1

    layers = sum(isinstance(part, Attention) for block in spec.blocks for part in block.parts)
    site = Site(
        kv_bytes=lambda tokens: spec.kv_bytes(int(tokens), 0),
        layers=max(1, layers),
        place=instance.place,
        devices=instance.devices,
        demand=demand,
    )
    return client_of(
        index, instance.name, steps, rules, Blocks(blocks, size, rules.prefix_caching),
        cluster.events, cluster, tape, site=site, prefill_only=instance.role == "prefill",
        run_ahead=params.run_ahead,
    )  # fmt: skip


def step_model(stack: Stack, instance: Instance, params: HermesParams) -> StepModel:
    """What prices the steps of an instance: a profile, a fit, or its accelerator; in pipeline
    stages if it has several. Those of a profile are equal parts of the whole.
    """
    stages = instance.pipeline_parallel
    drafts = params.speculation
    if drafts is not None and instance.role != "prefill":
        if stages > 1:
            raise InputError(
                f"instance {instance.name!r} has {stages} pipeline stages and no model of"
                " speculation with them; leave [simulate.speculation] or the stages out"
            )
        plain = step_model(stack, instance, params.model_copy(update={"speculation": None}))
        return Speculative(plain, drafts.tokens, drafts.acceptance, drafts.draft_share)
    if params.profile is not None:
        whole = _profiled(stack, instance, params, params.profile)
        if stages == 1:
            return whole
        measured = read_link(params.profile_network or params.profile)
        rate, latency = measured or _link(stack, instance) or LINK
        token_s = activation_bytes(instance.model.spec) / rate
        return Staged([whole], Send(latency, token_s), parts=stages)
    if instance.accelerator is None:
        raise InputError(
            f"instance {instance.name!r} has no accelerator; add an [accelerator] or a profile"
        )
    return LoweredSteps(stack, instance) if stages == 1 else lowered_stages(stack, instance)


def _profiled(stack: Stack, instance: Instance, params: HermesParams, profile: Path) -> StepModel:
    if profile.suffix == ".csv":
        return read_splitwise_profile(
            profile, params.profile_model, params.profile_hardware, instance.tensor_parallel
        )
    if profile.is_file():
        return read_fit(profile)
    shape = replace(
        Shape(**shape_of(instance.model.spec)),
        tensor_parallel=instance.tensor_parallel,
        link=_link(stack, instance) or LINK,
    )
    return read_profile(profile, shape, network=params.profile_network)


def _link(stack: Stack, instance: Instance) -> tuple[float, float] | None:
    """What joins the devices of an instance: the network's slowest link, else the port."""
    if stack.network is not None and stack.network.links:
        links = stack.network.links
        return min(one.bytes_per_s for one in links), max(one.latency_s for one in links)
    ports = instance.accelerator.describe().ports if instance.accelerator else ()
    return (ports[0].bytes_per_s, ports[0].latency_s) if ports else None


def _blocks(instance: Instance, block_bytes: float, params: HermesParams, notes: list[str]) -> int:
    """KV blocks from the memory that the accelerator describes."""
    if not block_bytes:
        return UNLIMITED
    memories = instance.accelerator.describe().memories if instance.accelerator else ()
    if not memories:
        notes.append(f"{instance.name}: no memory is described, so KV blocks have no limit")
        return UNLIMITED
    memory = max(one.bytes for one in memories) * instance.devices
    spec = instance.model.spec
    left = params.kv_memory * memory - spec.weight_bytes
    blocks = int(left // block_bytes)
    if blocks < 1:
        raise InputError(
            f"instance {instance.name!r}: {spec.name} has {spec.weight_bytes / 1e9:.1f} GB of"
            f" weights, and {params.kv_memory:g} of its memory is"
            f" {params.kv_memory * memory / 1e9:.1f} GB; use more devices or give kv_blocks"
        )
    notes.append(
        f"{instance.name}: {blocks} KV blocks of {instance.kv_block_tokens} tokens, from"
        f" {params.kv_memory:g} of its memory less the weights"
    )
    return blocks


def groups_of(stack: Stack, clients: Sequence[Client]) -> dict[str, Group]:
    """Groups by model, called as its spec, and every instance that serves whole calls by its name.

    Errors: InputError for decode instances without prefill ones of their model.
    """
    by_model: dict[str, list[tuple[Instance, Client]]] = {}
    for instance, client in zip(stack.instances, clients, strict=True):
        by_model.setdefault(instance.model.spec.to_json(), []).append((instance, client))
    groups: dict[str, Group] = {}
    for members in by_model.values():
        name = members[0][0].model.spec.name
        if name in groups:
            name = members[0][0].name
        roles: dict[str, list[Client]] = {"any": [], "prefill": [], "decode": []}
        for instance, client in members:
            roles[instance.role].append(client)
        if roles["decode"] and not roles["prefill"]:
            raise InputError(
                f"instance {roles['decode'][0].name!r} only decodes, and none of its model has the"
                " role 'prefill'; add one"
            )
        decodes = roles["decode"] or roles["any"]
        if roles["prefill"] and not decodes:
            raise InputError(
                f"instance {roles['prefill'][0].name!r} only prefills, and none of its model"
                " decodes; add one with the role 'decode'"
            )
        takes = [client for _, client in members if client not in roles["decode"]]
        groups[name] = Group(name, takes, decodes if roles["prefill"] else ())
    for instance, client in zip(stack.instances, clients, strict=True):
        if instance.role == "any":
            groups.setdefault(instance.name, Group(instance.name, [client]))
    return groups


def default_group(stack: Stack, groups: Mapping[str, Group]) -> str | None:
    """Who serves calls that name nobody: the only model's group."""
    models = {instance.model.spec.to_json() for instance in stack.instances}
    return next(iter(groups)) if len(models) == 1 else None


def _pairs(cluster: Cluster) -> Choose:
    def choose(clients: Sequence[Client], call: Call, now: int) -> Client:
        takes = cluster.groups[call.model].takes
        position = next(i for i, one in enumerate(takes) if one.index == call.client)
        return clients[position % len(clients)]

    return choose


def service_groups(groups: Mapping[str, Group], names: Sequence[str]) -> dict[str, Group]:
    """The groups that pool members of these names stand for. Errors: InputError."""
    missing = [name for name in names if name not in groups]
    if missing:
        raise InputError(
            f"pool member {missing[0]!r} is no instance and no model of the stack; there are:"
            f" {', '.join(groups)}"
        )
    return {name: groups[name] for name in names}
