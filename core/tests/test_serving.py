"""Values of the serving contract: predictions, pools, instants."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from crosslayer.contracts.serving import (
    CallSeconds,
    FinishedCall,
    Pool,
    PoolMember,
    Quality,
)
from crosslayer.errors import InputError

GRID = CallSeconds(
    prompt_tokens=(0, 100), output_tokens=(1, 11, 21), seconds=((1, 2, 4), (3, 4, 6))
)


def test_predicted_seconds_are_linear_inside_and_beyond_the_grid() -> None:
    assert [GRID.at(0, 1), GRID.at(100, 21), GRID.at(50, 6), GRID.at(25, 16)] == [1, 6, 2.5, 3.5]
    assert GRID.at(200, 31) == pytest.approx(1 + 2 * 2 + 1 + 2 * 2)  # both slopes go on
    assert list(GRID.at([0, 100], [11, 11])) == [2, 4]
    assert GRID.covers(100, 21) and not GRID.covers(101, 21) and not GRID.covers(0, 0)
    flat = CallSeconds(prompt_tokens=(7,), output_tokens=(1, 3), seconds=((1, 2),))
    assert flat.at(900, 2) == 1.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt_tokens": (100, 0)}, "must rise"),
        ({"seconds": ((1, 2, 4),)}, "a grid of 2 rows of 3"),
        ({"seconds": ((1, 2, 4), (3, 4, -6))}, "must not be negative"),
    ],
)
def test_a_grid_that_is_none_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        GRID.replace(**changes)


def test_a_pool_survives_json_and_knows_its_members() -> None:
    quality = Quality(value=0.62, samples=500, data="held-out half")
    member = PoolMember(name="small", quality=quality, call_seconds=GRID)
    both = Pool(members=(member, PoolMember(name="large")))
    assert Pool.from_json(both.to_json()) == both
    assert both.member("small").predicted_seconds(50, 6) == 2.5
    with pytest.raises(InputError, match=r"no member 'smal'; did you mean 'small'\?"):
        both.member("smal")
    with pytest.raises(InputError, match="'large' has no predicted seconds"):
        both.member("large").predicted_seconds(1, 1)
    with pytest.raises(ValidationError, match="two members are called 'small'"):
        Pool(members=(member, member))


def test_instants_of_a_call_cannot_run_backwards() -> None:
    with pytest.raises(ValidationError, match="run backwards"):
        FinishedCall(call_id="c", submitted_ns=5, started_ns=4, first_token_ns=6, finished_ns=7)
    with pytest.raises(ValidationError, match="without a start"):
        FinishedCall(call_id="c", submitted_ns=5, finished_ns=7)
