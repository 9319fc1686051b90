"""The code in the guides runs."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def python_blocks(guide: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / guide).read_text(), re.DOTALL)


def test_the_layer_of_the_guide_passes_the_guides_test(tmp_path, monkeypatch):
    layer, test = python_blocks("writing-a-layer.md")
    (tmp_path / "mylayers.py").write_text(layer)
    monkeypatch.syspath_prepend(tmp_path)
    exec(compile(test, "writing-a-layer.md", "exec"), {})
