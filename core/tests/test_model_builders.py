"""Vision Mamba by hand count; CNN and MLP stacks against nn.Sequential."""

from __future__ import annotations

import pytest

from crosslayer.contracts.model import Attention, Conv, Elementwise, Linear, Norm, SelectiveScan
from crosslayer.contracts.model_builders import Convolution, conv_stack, mlp, vision_mamba
from crosslayer.errors import InputError


def test_vim_tiny_has_the_parameters_of_its_shapes() -> None:
    hidden, inner, state, rank = 192, 384, 16, 12
    direction = inner * 5 + inner * (rank + 2 * state) + inner * (rank + 1) + inner * (state + 1)
    block = hidden + hidden * 2 * inner + 2 * direction + inner * hidden
    patches = (224 // 16) ** 2
    embedding = (3 * 16 * 16 + 1) * hidden + hidden + (patches + 1) * hidden
    head = hidden + (hidden + 1) * 1000
    assert vision_mamba().parameters == embedding + 24 * block + head == 7_148_008


@pytest.mark.parametrize(("hidden", "millions"), [(192, 7), (384, 26), (768, 98)])
def test_vim_sizes_are_those_of_the_paper(hidden: int, millions: int) -> None:
    """arXiv 2401.09417, ImageNet results: Vim-Ti 7M, Vim-S 26M, Vim-B 98M parameters."""
    assert round(vision_mamba(hidden=hidden).parameters / 1e6) == millions


def test_both_directions_read_the_shared_projection_and_meet_before_the_output() -> None:
    block = next(b for b in vision_mamba().blocks if b.name == "layers.0")
    after = {part.name: part.after for part in block.parts}
    assert after["conv"] == after["conv_b"] == ("in_proj",)
    assert after["scan_b"] == ("conv_activation_b", "x_proj_b", "dt_proj_b")
    assert after["mean"] == ("gate", "gate_b")
    scans = [part for part in block.parts if isinstance(part, SelectiveScan)]
    assert len(scans) == 2


def test_an_image_leaves_no_cache_but_the_scan_states() -> None:
    spec = vision_mamba(image=64, patch=8, layers=2, hidden=32)
    assert spec.context_tokens == 65
    assert spec.kv_bytes(65, 0) == 0
    assert list(spec.parts(Attention)) == []
    assert spec.state_bytes == 2 * 2 * 64 * 16 * 4  # layers, directions, channels x state in fp32


def test_a_smaller_stride_makes_more_patches() -> None:
    assert vision_mamba(layers=1, patch=16, stride=8).context_tokens == 27 * 27 + 1


@pytest.mark.torch
def test_an_mlp_is_a_sequential_of_linears() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    live = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
                         nn.Linear(100, 10))  # fmt: skip
    spec = mlp([784, 300, 100, 10])
    assert spec.parameters == sum(p.numel() for p in live.parameters())
    for _, part in spec.parts(Linear):
        module = live.get_submodule(part.path)
        assert (module.in_features, module.out_features) == (part.inputs, part.outputs)
    assert [part.name for _, part in spec.parts(Elementwise)] == ["activation"] * 2


@pytest.mark.torch
@pytest.mark.parametrize("flatten", [False, True])
def test_a_cnn_is_a_sequential_of_its_stages(flatten: bool) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    spec = conv_stack(
        [
            Convolution(8, kernel=5, padding=2, bias=False, norm=True, pool=2),
            Convolution(16, stride=2, groups=4),
            Convolution(12, kernel=1, pool=2),
        ],
        image=(3, 20, 24),
        classes=7,
        flatten=flatten,
    )
    stages = [
        nn.Conv2d(3, 8, 5, padding=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4), nn.ReLU(),
        nn.Conv2d(16, 12, 1), nn.ReLU(), nn.MaxPool2d(2),
        *([] if flatten else [nn.AdaptiveAvgPool2d(1)]), nn.Flatten(), nn.LazyLinear(7),
    ]  # fmt: skip
    live = nn.Sequential(*stages)
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in live.named_children():
        module.register_forward_hook(
            lambda _, given, made, name=name: (
                shapes.update({name: (given[0][0, 0].numel(), made[0, 0].numel())})
                if made.dim() == 4
                else None
            )
        )
    live(torch.zeros(1, 3, 20, 24))
    assert spec.parameters == sum(p.numel() for p in live.parameters())
    for _, part in spec.parts(Conv):
        assert shapes[part.path] == (part.input_positions, part.positions)
    for _, part in spec.parts(Conv, Norm, Linear):
        module = live.get_submodule(part.path)
        assert part.parameters == sum(p.numel() for p in module.parameters())
    assert [part.inputs for _, part in spec.parts(Linear)] == [live[-1].in_features]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: vision_mamba(patch=300), "patch 300 is larger than the image 224"),
        (lambda: vision_mamba(layers=0), "at least 1"),
        (lambda: mlp([5]), "two or more positive widths"),
        (lambda: mlp([5, 0]), "two or more positive widths"),
        (lambda: conv_stack([]), "at least one convolution"),
        (lambda: conv_stack([Convolution(8, groups=3), Convolution(8)]), "convolution 0: 3 groups"),
        (lambda: conv_stack([Convolution(8, kernel=41, padding=0)]), "does not fit on 32 x 32"),
        (lambda: conv_stack([Convolution(8, pool=33)]), "does not fit"),
        (lambda: conv_stack([Convolution(0)]), "every size must be at least 1"),
        (lambda: conv_stack([Convolution(8)], classes=0), "must be positive"),
    ],
)
def test_sizes_that_make_no_model_are_refused(build: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        build()  # type: ignore[operator]
    assert words in str(caught.value)
