"""The code in docs/how-to/vector-environments.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from vector_fixtures import nothing_left_behind  # noqa: F401

pytestmark = pytest.mark.slow  # real processes


def test_the_page_runs_from_top_to_bottom(tmp_path, capsys):
    """Every block, in order, in one namespace; and the recorder has left files."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "how-to" / "vector-environments.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    names = {"root": tmp_path}
    for block in blocks:
        exec(compile(block, "docs/how-to/vector-environments.md", "exec"), names)
    assert capsys.readouterr().out == "0\n"
    assert list(tmp_path.glob("data/buffer/*.npz"))
