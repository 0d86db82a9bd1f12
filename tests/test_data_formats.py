"""What docs/data-formats.md must name; its examples are run by test_documents.py."""

import re
from pathlib import Path

import pytest

from recipes.cli.main import main
from recipes.data.formats import READERS
from recipes.data.label_files import LABEL_FORMATS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "data-formats.md").read_text(encoding="utf-8")


def test_the_help_of_the_commands_lists_every_format(capsys):
    for command, formats in (("score", READERS), ("detect", LABEL_FORMATS)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        words = set(re.findall(r"\w+", capsys.readouterr().out))
        assert set(formats) <= words, set(formats) - words


def test_every_format_is_described():
    for format in (*READERS, *LABEL_FORMATS):
        assert f"| `{format}` |" in TEXT
