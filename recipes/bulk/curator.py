"""`TimeProSED`: a checkpoint as NeMo Curator's `SEDInferenceStage` asks for a model, by its import path.

See docs/bulk.md. NeMo Curator itself is not imported: it knows an adapter by its methods, and results by their fields.
"""

import math
from types import SimpleNamespace

import numpy as np

from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint_folder import load_pipeline


class TimeProSED:
    """Score each label in each frame of recordings: the score of the event that is there, 0 where there is none.

    Args:
        checkpoint_path: folder or Hub id; by default the embedded checkpoint.
        sample_rate: hertz; 16000.
        event_labels: columns of the scores; by default those that the checkpoint was trained on.
        options: of the pipeline, such as `batch_size` and `min_score`.

    Raises:
        ValueError: another sampling rate.
    """

    def __init__(self, checkpoint_path=None, sample_rate=16000, event_labels=None, **options):
        if sample_rate != 16000:
            raise ValueError(f"sample_rate is {sample_rate}; set the stage's sample_rate to 16000.")
        self.checkpoint_path, self.sample_rate = checkpoint_path or str(DEFAULT_CHECKPOINT), sample_rate
        self.event_labels, self.options, self.pipe = event_labels, options, None

    def download_weights_on_node(self):
        """Load the checkpoint once, so that it is on this node."""
        load_pipeline(self.checkpoint_path)

    def load_model(self, *, num_gpus):
        """Load the checkpoint, onto a GPU if `num_gpus` is not 0.

        Raises:
            ValueError: the checkpoint has no set of labels, and none was given; or there is no GPU.
        """
        import torch

        if num_gpus and not torch.cuda.is_available():
            raise ValueError(
                f"num_gpus is {num_gpus}, but PyTorch finds no GPU; give the stage resources=Resources(cpus=1.0), for "
                "by default it asks for one."
            )
        self.pipe = load_pipeline(self.checkpoint_path)
        if num_gpus:
            self.pipe.model.to("cuda")
            self.pipe.device = self.pipe.model.device
        self.event_labels = list(self.event_labels or self.pipe.model.config.event_labels or ())
        if not self.event_labels:
            raise ValueError("event_labels is not given, and the checkpoint has no set of labels; name the columns.")

    def unload_model(self):
        """Forget the checkpoint."""
        self.pipe = None

    def infer_batch(self, items):
        """Return for each `{"waveform": (num_samples,)}` its `framewise_output (num_frames, num_labels)`."""
        sounds = [{"array": item["waveform"], "sampling_rate": self.sample_rate} for item in items]
        found = self.pipe(sounds, task="detection", event_labels=self.event_labels, **self.options)
        return [self._scores(result, len(item["waveform"])) for result, item in zip(found, items, strict=True)]

    def _scores(self, result, num_samples):
        step, columns = self.pipe.processor.time_step, {label: i for i, label in enumerate(self.event_labels)}
        # As many as there are steps in the sound, the last one begun.
        num_frames = math.ceil(num_samples / self.sample_rate / step - 1e-6)
        scores = np.zeros((num_frames, len(columns)), dtype=np.float32)
        if result["events"] is None:
            raise ValueError(f"an answer cannot be read: {result['text']!r}.")
        for event in result["events"]:
            start, end = (round(event[name] / step) for name in ("onset", "offset"))
            column = scores[start : max(end, start + 1), columns[event["event_label"]]]
            np.maximum(column, event["score"], out=column)
        return SimpleNamespace(
            framewise_output=scores, fps=1 / step, valid_frames=len(scores), original_num_samples=num_samples
        )
