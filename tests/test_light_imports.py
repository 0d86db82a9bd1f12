"""`timepro detect` starts without the modules that training and compilers need, and these still work when called."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DETECT = """
import sys
from recipes.cli.main import main

status = main(["detect", "space_app/examples/farmyard.flac"])
from recipes.conversion.light_imports import FINDER, LATER, LaterModule
loaded = [name for name in LATER if name in sys.modules and not isinstance(sys.modules[name], LaterModule)]
sys.exit(status or f"{loaded} were imported" if loaded or not FINDER.is_active else 0)
"""
CALLED_LATER = """
import sys
from recipes.conversion.light_imports import FINDER, import_transformers_lightly
import_transformers_lightly("recipes/checkpoints/timepro-small")

import numpy as np
import torch
from transformers.distributed.utils import is_dtensor
from transformers.loss.loss_for_object_detection import linear_sum_assignment

assert not is_dtensor(torch.ones(2)) and FINDER.is_active
assert linear_sum_assignment(np.eye(2))[1].tolist() == [1, 0] and not FINDER.is_active
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2, 2]
assert torch.arange(3, device="meta").sum().shape == ()
assert isinstance(torch.distributions.Normal(0.0, 1.0).sample(), torch.Tensor)
assert torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)).graph is not None
import accelerate, scipy.signal, torch.distributed.tensor
assert isinstance(torch.distributed.tensor.DTensor, type) and accelerate.__version__
assert scipy.signal.get_window("hann", 4).shape == (4,)
"""


def run(code):
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def test_detection_imports_nothing_that_it_does_not_call():
    assert "rooster" in run(DETECT)


@pytest.mark.slow
def test_what_was_put_off_works_when_it_is_called():
    run(CALLED_LATER)


def test_nothing_is_put_off_for_other_checkpoints(tmp_path):
    run(f"""
from recipes.conversion.light_imports import FINDER, import_transformers_lightly
import sys

import_transformers_lightly({str(tmp_path)!r})
assert not FINDER.is_active and "torch" not in sys.modules
""")
