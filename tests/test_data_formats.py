"""The examples of docs/data-formats.md, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

from processing.annotation_io import ANNOTATION_FORMATS
from recipes.data.event_loaders import READERS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "data-formats.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 of 3 recordings are missing" in done.stdout
    assert (tmp_path / "tracks").is_dir() and (tmp_path / "praat" / "street.TextGrid").is_file()


def test_every_format_is_described():
    for format in (*READERS, *ANNOTATION_FORMATS):
        assert f"| `{format}` |" in TEXT
