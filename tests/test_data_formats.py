"""What docs/data-formats.md must name; its examples are run by test_documents.py."""

from pathlib import Path

from recipes.data.formats import READERS
from recipes.data.label_files import LABEL_FORMATS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "data-formats.md").read_text(encoding="utf-8")


def test_every_format_is_described():
    for format in (*READERS, *LABEL_FORMATS):
        assert f"| `{format}` |" in TEXT
