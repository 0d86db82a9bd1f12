"""Two runs of a command are equal, in processes whose sets and dicts have other orders."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_backbones import make_stock, save_stock

from recipes import DEFAULT_CHECKPOINT
from recipes.small.language_model import train_tokenizer

EXAMPLES = Path(__file__).parents[1] / "space_app" / "examples"
COMMANDS = (
    ["detect", "sounds", "--format", "jsonl"],
    ["ground", "sounds", "--query", "dog bark", "--query", "rain", "--json"],
    ["caption", "sounds", "--out", "captions", "--format", "vtt"],
    ["info", "--json"],
    ["convert", "--backbone", "stock", "--out", "converted", "--time-init", "random"],
    ["score", "sounds/night.tsv", "--out", "report"],
    ["annotate", "sounds", "--out", "annotations"],
)
CODE = """
import json, sys
from recipes.cli.main import main
for arguments in json.loads(sys.argv[1]):
    assert main(arguments) == 0, arguments
"""


@pytest.mark.slow
@pytest.mark.skipif(not DEFAULT_CHECKPOINT.exists(), reason="the embedded checkpoint is not in this copy")
def test_two_runs_of_every_command_are_equal(tmp_path):
    train_tokenizer(vocab_size=400, num_documents=300).save_pretrained(tmp_path / "tokenizer")
    written = []
    for seed in (1, 2):
        folder = tmp_path / "run"  # by the same names
        (folder / "sounds").mkdir(parents=True)
        for path in [*EXAMPLES.glob("night.*"), *EXAMPLES.glob("village.flac")]:
            shutil.copy2(path, folder / "sounds")
        save_stock(*make_stock("qwen2_audio", tmp_path / "tokenizer"), folder / "stock")
        result = subprocess.run(
            [sys.executable, "-c", CODE, json.dumps(COMMANDS)], cwd=folder, capture_output=True, text=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        written.append(files | {"stdout": result.stdout.encode()})
        shutil.rmtree(folder)
    assert written[0].keys() == written[1].keys() and len(written[0]) > 15
    different = [name for name in written[0] if written[0][name] != written[1][name]]
    assert not different
