"""Bad pipeline files, each with every problem that it has: its line, and words that its sentence
needs.
"""

from __future__ import annotations

TWO_MODELS = '[[model]]\nuse = "toy"\nname = "a"\n[[model]]\nuse = "toy"\nname = "b"\n'
TWO_MACHINES = '[[accelerator]]\nuse = "machine"\nname = "x"\n'
TWO_MACHINES += '[[accelerator]]\nuse = "machine:large"\nname = "y"\n'
MODEL = '[model]\nuse = "toy"\n'
SPEC = '[model]\nuse = "toy-spec"\n'
MACHINE = '[accelerator]\nuse = "machine"\n'

# name: (file, [(line, words that the sentence must have), ...]): all problems of the file, in
# order.
BAD: dict[str, tuple[str, list[tuple[int, str]]]] = {
    "unknown table": (
        MODEL + '[acelerator]\nuse = "x"\n',
        [(3, "unknown table 'acelerator' did you mean 'accelerator'?")],
    ),
    "unknown key at the top": ("sed = 1\n" + MODEL, [(1, "unknown key 'sed'")]),
    "unknown key in a table": (
        MODEL + "[workload]\nprompt_tokens = 4\nprompt_token = 4\n",
        [(5, "unknown key 'prompt_token' [workload] did you mean 'prompt_tokens'?")],
    ),
    "unknown parameter": (
        MODEL + '[[transform]]\nuse = "prune"\nsparsty = 0.5\n',
        [(5, "transform[0].sparsty unknown key did you mean 'sparsity'?")],
    ),
    "text for a number": (
        MODEL + '[workload]\nbatch_size = "two"\n',
        [(4, "workload.batch_size must be a valid integer 'two'")],
    ),
    "a fraction for a whole number": (
        MODEL + "[workload]\noutput_tokens = 1.5\n",
        [(4, "workload.output_tokens integer 1.5")],
    ),
    "zero tokens": (
        MODEL + "[workload]\nprompt_tokens = 0\n",
        [(4, "workload.prompt_tokens greater than or equal to 1 0")],
    ),
    "more output than a run can hold": (
        MODEL + "[workload]\noutput_tokens = 2000000000\n",
        [(4, "workload.output_tokens less than or equal to 1048576 2000000000")],
    ),
    "more requests than a run can hold": (
        MODEL + "[workload]\nrequests = 1000000000000\n",
        [(4, "workload.requests less than or equal to 1000000 1000000000000")],
    ),
    "more decodes than a run can hold": (
        MODEL + "[workload]\nbatch_size = 1000000\noutput_tokens = 1000\n",
        [(3, "batch_size x output_tokens 1000000000 16777216")],
    ),
    "negative seed": (
        "[pipeline]\nseed = -1\n" + MODEL,
        [(2, "pipeline.seed greater than or equal to 0 -1")],
    ),
    "true for a seed": (
        "[pipeline]\nseed = true\n" + MODEL,
        [(2, "pipeline.seed must be a valid integer True")],
    ),
    "missing model": (MACHINE, [(1, "no [model] table")]),
    "missing use": ("[model]\nlayers = 2\n", [(1, "[model] needs a 'use' key")]),
    "use is a number": ("[model]\nuse = 3\n", [(2, "model.use must be a valid string 3")]),
    "unknown component": (
        MODEL + '[[transform]]\nuse = "prun"\n',
        [(4, "no model transform 'prun' did you mean 'prune'?")],
    ),
    "a component of another kind": (
        MODEL + '[[transform]]\nuse = "machine"\n',
        [(4, "'machine' is a accelerator model")],
    ),
    "a plugin that is not installed": (
        MODEL + '[[transform]]\nuse = "flow"\n',
        [(4, "'flow' flow-flexcim not loaded")],
    ),
    "unknown preset": (
        MODEL + '[accelerator]\nuse = "machine:smal"\n',
        [(4, "no preset 'smal' did you mean 'small'?")],
    ),
    "unknown fallback": (
        MODEL + '[accelerator]\nuse = "machine"\nfallback = ["machine:large", "machin"]\n',
        [(5, "no accelerator model 'machin' did you mean 'machine'?")],
    ),
    "impossible sparsity": (
        MODEL + '[[transform]]\nuse = "prune"\nsparsity = 1.5\n',
        [(5, "transform[0].sparsity 1.5 must be less than 1")],
    ),
    "a rule over several parameters": (
        MODEL + "[evaluate]\nmean = { wanted = 9 }\n",
        [(4, "evaluate.mean has only 8")],
    ),
    "a wrong element of a list": (
        MODEL + '[[transform]]\nuse = "prune"\nblocks = [\n  1,\n  "two",\n]\n',
        [(7, 'transform[0].blocks[1] "two" integer')],
    ),
    "two accelerator tables": (
        MODEL + MACHINE + MACHINE,
        [(5, "[accelerator] appears twice write [[accelerator]] name")],
    ),
    "two accelerators without names": (
        MODEL + MACHINE.replace("[accelerator]", "[[accelerator]]") * 2,
        [
            (3, "2 [[accelerator]] tables needs a 'name'"),
            (5, "needs a 'name'"),
            (5, "several accelerators need [[instance]]"),
        ],
    ),
    "two models of one name": (TWO_MODELS.replace('"b"', '"a"'), [(6, "two [[model]] called 'a'")]),
    "which model is not said": (
        TWO_MODELS + '[[transform]]\nuse = "prune"\n',
        [(7, "transform[0] needs 'on' 2 models known: a, b")],
    ),
    "on names no model": (
        MODEL + '[[transform]]\nuse = "prune"\non = "tooy"\n',
        [(5, "no model is called 'tooy' did you mean 'toy'?")],
    ),
    "several accelerators and no instance": (
        MODEL + TWO_MACHINES,
        [(6, "several accelerators need [[instance]]")],
    ),
    "an instance on no accelerator": (
        MODEL + TWO_MACHINES + '[[instance]]\naccelerator = "z"\n',
        [(10, "no accelerator is called 'z' known: x, y")],
    ),
    "an instance where there is no accelerator": (
        MODEL + '[[instance]]\naccelerator = "z"\n',
        [(4, "no accelerator 'z' there is no [accelerator]")],
    ),
    "a role that does not exist": (
        MODEL + MACHINE + '[[instance]]\nrole = "prefil"\n',
        [(6, "instance[0].role must be 'any', 'prefill' or 'decode' 'prefil'")],
    ),
    "heads that do not divide": (
        MODEL
        + MACHINE
        + '[network]\nlinks = [{ a = "0", b = "1", bytes_per_s = 1e9, latency_s = 0 }]\n'
        + "[[instance]]\ntensor_parallel = 3\n",
        [(8, "do not divide tensor_parallel = 3")],
    ),
    "devices that are not linked": (
        MODEL + MACHINE + "[[instance]]\ntensor_parallel = 2\n",
        [(4, "Collective no [network] no port")],
    ),
    "more stages than blocks": (
        MODEL + MACHINE + "[[instance]]\npipeline_parallel = 9\n",
        [(6, "pipeline_parallel = 9 4 blocks")],
    ),
    "devices that do not multiply": (
        MODEL + MACHINE + "[[instance]]\ndevices = 3\ntensor_parallel = 2\n",
        [
            (6, "3 devices tensor_parallel x pipeline_parallel = 2"),
        ],
    ),
    "a place without a network": (
        MODEL + MACHINE + '[[instance]]\nplace = "rack"\n',
        [(6, "'rack' there is no [network]")],
    ),
    "a missing topology file": (
        MODEL + '[network]\ntopology = "fabric.toml"\n',
        [(4, "no topology file 'fabric.toml'")],
    ),
    "a link without a rate": (
        MODEL + '[network]\nlinks = [{ a = "x", b = "y", latency_s = 0 }]\n',
        [(4, "network.links.0.bytes_per_s required")],
    ),
    "a policy that nothing serves": (
        MODEL + '[policy]\nuse = "vote"\n',
        [(3, "[policy] add a [[simulate]] step")],
    ),
    "a trace of a later step": (
        MODEL + '[[simulate]]\nuse = "count"\ntrace = "@other/log"\n',
        [(5, "no earlier step is called 'other' no step comes before it")],
    ),
    "a trace that is not there": (
        MODEL + '[[simulate]]\nuse = "count"\ntrace = "gone.jsonl"\n',
        [(5, "there is no file 'gone.jsonl'")],
    ),
    "a missing file of a parameter": (
        MODEL + '[evaluate]\nmean = { wanted = 1, words = "gone.txt" }\n',
        [(4, "evaluate.mean.words no file 'gone.txt'")],
    ),
    "a path outside": (
        MODEL + '[[simulate]]\nuse = "count"\nlog = "../../log.txt"\n',
        [(5, "simulate[0].log '../../log.txt' leaves the run directory")],
    ),
    "an absolute path to write": (
        MODEL + '[[simulate]]\nuse = "count"\nlog = "/log.txt"\n',
        [(5, "'/log.txt' leaves the run directory")],
    ),
    "a live step on a spec": (
        SPEC + '[[transform]]\nuse = "tune"\n',
        [(4, "'tune' needs a live model 'toy-spec'")],
    ),
    "evaluation of a spec": (
        SPEC + "[evaluate]\nmean = {}\n",
        [(4, "'mean' needs a live model 'toy-spec'")],
    ),
    "a dependency that is not installed": (
        MODEL + "[evaluate]\nneedy = {}\n",
        [(4, "'needy' a_module_nobody_has ask the toy maker for it")],
    ),
    "an op that nobody prices": (
        MODEL + MACHINE + 'refuses = ["Gemm"]\n',
        [(4, "accelerator 'machine' cannot price Gemm no unit for Gemm name a 'fallback'")],
    ),
    "a pattern that does not divide a layer": (
        MODEL + '[[transform]]\nuse = "prune"\npattern = "7:9"\n',
        [(4, "'prune' groups of 9 7:9")],
    ),
    "a transform that fails on the spec": (
        MODEL + '[[transform]]\nuse = "fail"\nwhen = "spec"\n',
        [(4, "'fail' ZeroDivisionError on purpose")],
    ),
    "problems of form, of names and of the trial": (
        MODEL
        + MACHINE
        + 'refuses = ["Gemm"]\n[workload]\nprompt_token = 4\n[[transform]]\nuse = "prune"\n'
        + 'pattern = "7:9"\n[[transform]]\nuse = "prun"\n[[transform]]\nuse = "fail"\n'
        + 'when = "spec"\n[evaluate]\nneedy = {}\nmean = { wanted = 9 }\n',
        [
            (4, "cannot price Gemm (found without transform[0], transform[1], transform[2])"),
            (7, "unknown key 'prompt_token'"),
            (9, "'prune' groups of 9"),
            (12, "no model transform 'prun'"),
            (14, "'fail' on purpose (found without transform[0], transform[1])"),
            (17, "'needy' a_module_nobody_has"),
            (18, "has only 8"),
        ],
    ),
    "not a number": (
        MODEL + '[[transform]]\nuse = "prune"\nsparsity = nan\n',
        [(5, "transform[0].sparsity finite")],
    ),
    "a date": (
        MODEL + '[[transform]]\nuse = "prune"\nsparsity = 2024-01-01\n',
        [(5, "transform[0].sparsity date")],
    ),
    "a key twice": (MODEL + 'use = "toy"\n', [(3, "broken TOML overwrite")]),
    "broken TOML": (MODEL + "[[transform]\nuse = 'prune'\n", [(3, "broken TOML")]),
    "a string that does not end": (MODEL + 'name = "a\n', [(3, "broken TOML")]),
    "one [transform]": (
        MODEL + '[transform]\nuse = "prune"\n',
        [(3, "[transform] is written [[transform]]")],
    ),
    "a table that is a number": (
        "evaluate = 3\nworkload = 4\n" + MODEL,
        [(1, "'evaluate' must be a table 3"), (2, "'workload' must be a table 4")],
    ),
    "an evaluator that is no table": (
        MODEL + "[evaluate]\nmean = 3\n",
        [(4, "evaluate.mean must be a table mean = {}")],
    ),
}
