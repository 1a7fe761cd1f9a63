"""Registers the zoo. BROKEN names, for each broken component, the one check that must flag it."""

from __future__ import annotations

from crosslayer.component import Component, hookimpl

BROKEN = {
    "changes-its-input": ("transforms:ChangesItsInput", "the_input_model_is_untouched"),
    "draws-globally": ("transforms:DrawsGlobally", "same_seed_same_model"),
    "ships-other-weights": (
        "transforms:ShipsOtherWeights",
        "the_live_weights_are_what_the_spec_ships",
    ),
    "needs-torch-for-a-spec": (
        "transforms:NeedsTorchForASpec",
        "a_spec_alone_is_enough_without_torch",
    ),
    "forgets-on-restore": ("transforms:ForgetsOnRestore", "a_cached_result_is_restored_exactly"),
    "writes-elsewhere": ("transforms:WritesElsewhere", "it_writes_only_into_its_output_folder"),
    "leaves-no-history": ("transforms:LeavesNoHistory", "it_adds_itself_to_the_history"),
    "undocumented": ("accelerators:Toy", "parameters_are_documented"),
    "doubling": ("accelerators:Toy", "parameters_survive_json"),
    "lenient": ("accelerators:Toy", "wrong_parameters_are_refused"),
    "only-here": ("accelerators:OnlyHere", "a_worker_rebuilds_it"),
    "negative": ("accelerators:Negative", "costs_are_finite_and_not_negative"),
    "prices-what-it-refuses": ("accelerators:PricesWhatItRefuses", "refusals_give_their_reason"),
    "shrinks": ("accelerators:Shrinks", "a_larger_op_never_costs_less"),
    "columns-differ": ("accelerators:ColumnsDiffer", "columns_agree_with_single_ops"),
    "slow-graph": ("accelerators:SlowGraph", "a_graph_lies_between_its_critical_path_and_its_sum"),
    "unsourced": ("accelerators:Unsourced", "the_hardware_is_described_with_sources"),
    "no-artifact": ("others:no_artifact", "the_spec_survives_json"),
    "miscounts": ("others:miscounts", "the_spec_counts_the_live_parameters"),
    "evaluates-by-chance": ("others:EvaluatesByChance", "same_seed_same_evaluation"),
    "evaluator-writes": (
        "others:EvaluatorWrites",
        "an_evaluation_writes_only_into_its_output_folder",
    ),
    "plans-by-chance": ("others:PlansByChance", "planning_and_deciding_are_pure"),
    "waits-for-ever": ("others:WaitsForEver", "every_request_is_answered_once"),
    "simulates-by-chance": ("others:SimulatesByChance", "same_seed_same_simulation"),
    "simulator-writes": (
        "others:SimulatorWrites",
        "a_simulation_writes_only_into_its_output_folder",
    ),
}
GOOD = {
    "good-transform": "transforms:Toy",
    "good-accelerator": "accelerators:Toy",
    "good-model": "others:good_model",
    "good-evaluator": "others:Evaluator",
    "good-policy": "others:Vote",
    "good-simulator": "others:Simulator",
}
PARAMS = {"undocumented": "Undocumented", "doubling": "Doubling", "lenient": "Lenient"}
KIND_OF_MODULE = {"transforms": "transform", "accelerators": "accelerator"}


def _components(kind: str) -> list[Component]:
    places = {name: factory for name, (factory, _) in BROKEN.items()} | GOOD
    return [
        Component(
            name=name,
            summary=f"Of the zoo: {name}",
            paper="",
            factory=f"kit_zoo.{factory}",
            params=f"kit_zoo.params:{PARAMS.get(name, 'ToyParams')}",
        )
        for name, factory in places.items()
        if _kind(name, factory) == kind
    ]


def _kind(name: str, factory: str) -> str:
    module = factory.split(":")[0]
    if module in KIND_OF_MODULE:
        return KIND_OF_MODULE[module]
    words = {
        "artifact": "model",
        "model": "model",
        "miscounts": "model",
        "evaluat": "evaluator",
        "simulat": "simulator",
    }
    return next((kind for word, kind in words.items() if word in name), "policy")


@hookimpl
def crosslayer_model_transforms() -> list[Component]:
    return _components("transform")


@hookimpl
def crosslayer_accelerator_models() -> list[Component]:
    return _components("accelerator")


@hookimpl
def crosslayer_models() -> list[Component]:
    return _components("model")


@hookimpl
def crosslayer_evaluators() -> list[Component]:
    return _components("evaluator")


@hookimpl
def crosslayer_serving_policies() -> list[Component]:
    return _components("policy")


@hookimpl
def crosslayer_simulators() -> list[Component]:
    return _components("simulator")
