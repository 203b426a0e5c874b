"""A cell's title is the line that says most."""

from __future__ import annotations

import pytest

from nbutils.launch.titles import describe_cell


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("\n# Look at this machine.\nimport os\n", "Look at this machine."),
        ("import os\nfrom sys import argv\n\nrun.train()", "run.train()"),
        ("import os\n# why\nrun.train()", "run.train()"),
        ("import os", "import os"),
        ("# %%\nimport os\nx = 1", "x = 1"),
        ("#@title Form\nx = 1", "x = 1"),
        ("# just this", "just this"),
        ("#!no\n", "(empty)"),
        ("", "(empty)"),
        ("x = '" + "a" * 100, "x = '" + "a" * 62 + "…"),
    ],
)
def test_title_of_code_is_its_comment_or_its_first_deed(
    source: str, title: str
) -> None:
    assert describe_cell({"cell_type": "code", "source": source}) == title


def test_title_of_text_is_its_heading() -> None:
    cell = {"cell_type": "markdown", "source": "\n## Results\n\ntext"}
    assert describe_cell(cell) == "Results"
