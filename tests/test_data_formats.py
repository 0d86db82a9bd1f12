"""What docs/data-formats.md must name; its examples are run by test_documents.py."""

from pathlib import Path

from processing.annotations import ANNOTATION_FORMATS
from recipes.data.event_loaders import READERS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "data-formats.md").read_text(encoding="utf-8")


def test_every_format_is_described():
    for format in (*READERS, *ANNOTATION_FORMATS):
        assert f"| `{format}` |" in TEXT
