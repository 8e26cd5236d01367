"""JAX: what a weighted mean divides by, of arrays that a program has yet to compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from fastloss._inputs import per_row
from fastloss.backends.layout import Layout, ignored_id, weights_of_ids


def total(layout: Layout, inputs: Mapping[str, Any]) -> Any:
    """The sum of the weights of all elements; None if all count as one."""
    loss, label = layout.loss, per_row(layout.loss.specs)
    weights = weights_of_ids(loss)
    factors = []
    if "sample_weight" in inputs:
        factors.append(wide(layout.place_weight(inputs["sample_weight"], shape_of(layout))[0]))
    if weights is not None and label is not None:
        table = jnp.asarray(np.broadcast_to(weights, layout.shape[layout.row]), np.float32)
        ids = layout.place(label.name, inputs[label.name])[0]
        counts = (ids >= 0) & (ids < table.size)
        ignored = ignored_id(loss)
        counts = counts if ignored is None else counts & (ids != ignored)
        factors.append(jnp.where(counts, table[jnp.where(counts, ids, 0).astype(int)], 0))
    if not factors:
        return None
    product = factors[0] if len(factors) == 1 else factors[0] * factors[1]
    return product.sum() * (layout.size // max(1, product.size))


def shape_of(layout: Layout) -> tuple[int, ...]:
    return tuple([layout.shape[k] for k in layout.axes])


def wide(x: Any) -> Any:
    """Halves and integers as floats of at least 32 bits."""
    return x.astype(jnp.promote_types(x.dtype, np.float32))


def reciprocal(total: Any) -> Any:
    """What to multiply sums by: the mean of nothing is 0."""
    return jnp.where(total == 0, 0, 1 / jnp.where(total == 0, 1, total))
