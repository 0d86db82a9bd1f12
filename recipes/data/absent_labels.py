"""Labels that a recording does not hold, drawn to be asked for: the right answer is that there is nothing."""

import numpy as np


def draw_absent_labels(labels, present, num_absent, generator: np.random.Generator) -> list[str]:
    """Return labels that a recording lacks, in random order.

    Args:
        labels: those of the whole data set, in any order; `""` stands for none.
        present: those of the recording.
        num_absent: how many, at most; `None` for all.
        generator: one for each recording, so that its draw does not depend on what stands around it.
    """
    absent = sorted(set(labels) - set(present) - {""})
    return [absent[i] for i in generator.permutation(len(absent))[:num_absent]]
