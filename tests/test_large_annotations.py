"""Large files are read piece by piece, into memory and nowhere else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MEMORY = """
import sys
from pathlib import Path
import ijson  # what it needs is not the file's
from recipes.data.loading import load_clips

def mebibytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if name in line).split()[1]) / 1024

before = mebibytes("VmRSS")
clips = load_clips(sys.argv[1])
print(len(clips), before, mebibytes("VmHWM"))
"""


def measure(path, num_bytes):
    """Write a list like FTAR's of about `num_bytes`, load it elsewhere; return items, and MiB before and at most."""
    answer = "0.0 - 2.1: a dog barks twice in the distance; 4.5 - 9.8: a car passes by while people talk"
    question = "What events can you detect in the sound with the start and end timestamps?"
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        file.write("[")
        while file.tell() < num_bytes:
            item = {"id": f"Y{count:011d}", "audio": f"AudioSet/Y{count:011d}.wav", "question": question}
            file.write((", " if count else "") + json.dumps({**item, "answer": answer, "duration": 10.0}))
            count += 1
        file.write("]")
    environment = {**os.environ, "HF_HOME": str(path.parent / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert not (path.parent / "cache").exists(), "loading writes no cache"
    loaded, before, most = done.stdout.split()
    assert int(loaded) == count
    return float(before), float(most)


def test_a_large_list_is_read_piece_by_piece(tmp_path):
    before, most = measure(tmp_path / "ftar.json", 6_700_000)
    # A tenth of FTAR's dense captions, so a tenth of the 500 MB that the whole may take.
    assert most - before < 50


@pytest.mark.slow
def test_ftar_loads_in_half_a_gigabyte(tmp_path):
    before, most = measure(tmp_path / "ftar.json", 67_500_000)
    print(f"{before:.0f} MiB before, {most:.0f} MiB at most")
    assert most * 1.048576 < 500
