"""JSON of any shape, for what reads files that anybody may have written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st


def json_values(keys: Sequence[str]) -> st.SearchStrategy[Any]:
    """Values of all kinds, nested; the keys of objects are among these."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(keys)), inner),
        max_leaves=20,
    )
