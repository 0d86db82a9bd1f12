"""Supervised fine-tuning of a TimePro checkpoint on annotated clips; see `recipes/training/sft.py`.

accelerate launch recipes/sft.py --config recipes/configs/sft/small.yaml
"""

import sys
from pathlib import Path

# `accelerate launch recipes/sft.py` puts recipes/ itself on the path; the package's parent is what imports need.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from recipes.training.sft import main  # noqa: E402

if __name__ == "__main__":
    main()
