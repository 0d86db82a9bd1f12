"""Run a recipe with its weights split over processes (FSDP2, DeepSpeed) and no GPU; started by `accelerate launch`.

accelerate splits weights over GPUs only. Told that gloo joins GPUs, and that these are the CPU, it does all the rest as
it would: each process holds its part of the weights.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

from accelerate.state import DistributedType, PartialState  # noqa: E402

PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_GPU)

if __name__ == "__main__":
    from recipes.training import grpo, sft

    {"sft": sft, "grpo": grpo}[sys.argv[1]].main(sys.argv[2:])
