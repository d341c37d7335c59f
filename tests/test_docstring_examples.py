"""The examples in docstrings are true: each is run as it stands."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
WITH_EXAMPLES = sorted(
    ".".join(file.relative_to(CHECKOUT).with_suffix("").parts)
    for package in ("local_training", "tools")
    for file in (CHECKOUT / package).rglob("*.py")
    if "    >>> " in file.read_text("utf-8")
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In an empty folder, so that an example may name a root of its own."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)

    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)

    assert tried and not failed
