"""N:M sparsity: of every m consecutive weights along the last axis at most n are non-zero."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crosslayer.contracts.number_format import NumberFormat, as_format
from crosslayer.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class NMSparsity:
    """n kept of each m consecutive elements along the last axis; n == m is dense."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise InputError(f"sparsity {self.n}:{self.m}: n:m needs 1 <= n <= m, such as 2:4")

    @classmethod
    def parse(cls, text: str) -> NMSparsity:
        """The sparsity that `str` writes: "4:8" is 4 kept of 8."""
        match = re.fullmatch(r"\s*([0-9]{1,6})\s*:\s*([0-9]{1,6})\s*", text)
        if match is None:
            raise InputError(f"sparsity {text!r} is not n:m, such as '2:4'")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def density(self) -> float:
        """Share of the elements that is kept."""
        return self.n / self.m

    @property
    def index_bits(self) -> int:
        """Bits of a kept element's place in its group: ceil(log2 m), 0 where all are kept."""
        return 0 if self.n == self.m else (self.m - 1).bit_length()

    def scale_group(self, group: int) -> int:
        """Kept elements that share a scale in a format of that group size.

        As many whole N:M groups as fit, at least one: a scale never cuts an N:M group, because the
        order inside one depends on which of its elements are zero.
        """
        return group if self.n == self.m else self.n * max(1, group // self.n)

    def storage_bits(self, format: NumberFormat | str) -> float:
        """Bits per original element of a large tensor: values, scales and indices.

        density * (format.storage_bits + index_bits) where n divides the scale group:
        2:4 of int8 is 0.5 * (8 + 2) = 5.
        """
        format = as_format(format)
        bits: float = format.bits + self.index_bits
        if format.group:
            bits += format.group_bits / self.scale_group(format.group)
        return self.density * bits

    def mask(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """True for the n largest scores of each group; ties go to the lowest index.

        scores: [..., k] with k divisible by m; NaN is refused. Returns the same shape.
        """
        import numpy as np

        values = np.asarray(scores, dtype=np.float64)
        groups = self.groups(values)
        if np.isnan(values).any():
            where = tuple(int(i) for i in np.argwhere(np.isnan(values))[0])
            raise InputError(f"scores for {self} hold NaN at index {where}: they have no order")
        order = np.argsort(-groups, axis=-1, kind="stable")
        kept = np.zeros(groups.shape, dtype=np.bool_)
        np.put_along_axis(kept, order[..., : self.n], True, axis=-1)
        return kept.reshape(values.shape)

    def check(self, weight: ArrayLike) -> None:
        """Raise InputError naming the first group that has more than n non-zeros."""
        import numpy as np

        groups = self.groups(np.asarray(weight))
        counts = np.count_nonzero(groups, axis=-1)
        if (counts > self.n).any():
            *row, group = (int(i) for i in np.argwhere(counts > self.n)[0])
            first = group * self.m
            raise InputError(
                f"weight is not {self}: row {tuple(row)}, elements {first} to "
                f"{first + self.m - 1} hold {int(counts[*row, group])} non-zeros"
            )

    def groups(self, values: NDArray[Any]) -> NDArray[Any]:
        """View [..., k] as [..., k / m, m]. InputError where m does not divide k."""
        self.check_shape(values.shape)
        return values.reshape(*values.shape[:-1], values.shape[-1] // self.m, self.m)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise InputError unless the last axis of this shape is divisible by m."""
        if not shape or shape[-1] % self.m:
            raise InputError(
                f"sparsity {self} needs a last axis divisible by m = {self.m}, got shape {shape}"
            )
