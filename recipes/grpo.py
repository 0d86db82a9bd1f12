"""GRPO after supervised fine-tuning; see `recipes/training/grpo.py`.

accelerate launch recipes/grpo.py --config recipes/configs/grpo/small.yaml
"""

import sys
from pathlib import Path

# `accelerate launch recipes/grpo.py` puts recipes/ itself on the path; the package's parent is what imports need.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from recipes.training.grpo import main  # noqa: E402

if __name__ == "__main__":
    main()
