"""Train the audio encoder on frame labels, in the embedding space of the language model.

Every projected frame predicts the labels that are active in it, and those that start or end there. The target of a
label is the mean embedding of its tokens: a frame in which a dog barks becomes similar to the words "dog bark", so the
language model can read it from the first step on. If the bark starts or ends there, the frame is also similar to a
fixed rotation of that embedding, one for starts and one for ends, which makes boundaries as salient as labels. Only
encoder and projector are trained; the head is discarded.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recipes.small.averaged_training import train_averaged
from recipes.training.grounder_loss import frame_coverage

# A frame equal to a label's embedding has a confidence of sigmoid(10 * 1 - 5) = 0.993.
SHARPNESS = 10.0
# Boundaries are rare, about one in a thousand pairs of frame and label; without weight they would not be learned.
BOUNDARY_WEIGHT = 1.0
BOUNDARY_POSITIVE_WEIGHT = 10.0
LENGTH_PENALTY = 0.01


class FrameHead(nn.Module):
    """Predict labels, starts and ends from projected frames `(..., hidden_size)`.

    Args:
        directions: `(num_labels, hidden_size)` unit vectors of the labels, see `label_directions`.
        scale: norm of a label's embedding, by which frames are divided.
    """

    def __init__(self, directions, scale):
        super().__init__()
        num_labels, hidden_size = directions.shape
        self.register_buffer("directions", directions)
        self.scale = scale
        self.bias = nn.Parameter(torch.full((num_labels,), -0.5 * SHARPNESS))
        generator = torch.Generator().manual_seed(0)
        rotations = [torch.linalg.qr(torch.randn(hidden_size, hidden_size, generator=generator))[0] for _ in range(2)]
        self.register_buffer("boundary_directions", torch.cat([directions @ rotation for rotation in rotations]))
        self.boundary_bias = nn.Parameter(torch.full((2 * num_labels,), -0.5 * SHARPNESS))

    def forward(self, frames):
        """Return `(label logits (..., num_labels), boundary logits (..., 2 * num_labels), mean squared length)`."""
        frames = frames.float() / self.scale
        sounding = SHARPNESS * frames @ self.directions.T + self.bias
        boundary = SHARPNESS * frames @ self.boundary_directions.T + self.boundary_bias
        return sounding, boundary, frames.pow(2).sum(-1).mean()

    def linear_map(self, projector):
        """Return the label logits as a linear map of what the projector reads: `(weight (num_labels, size), bias)`."""
        scaled = SHARPNESS / self.scale * self.directions
        return scaled @ projector.linear.weight, scaled @ projector.linear.bias + self.bias


def label_directions(embeddings, tokenizer, labels):
    """Return `(directions (num_labels, hidden_size), scale)` of labels in a language model's embedding space.

    A direction is the mean embedding of the label's tokens minus the mean over all labels, normalised; `scale` is the
    mean norm before normalisation.
    """
    with torch.no_grad():
        means = torch.stack(
            [
                embeddings.weight[torch.tensor(tokenizer(label, add_special_tokens=False)["input_ids"])].float().mean(0)
                for label in labels
            ]
        )
        centred = means - means.mean(0)
        return F.normalize(centred, dim=-1), centred.norm(dim=-1).mean().item()


def frame_targets(rows, labels, num_frames, frame_rate):
    """Return `(sounding, boundaries)`, float `(num_clips, num_frames, num_labels)` and `(.., .., 2 * num_labels)`.

    `sounding` is the fraction of each frame in which a label is active. A boundary is assigned to the frame after its
    nearest tick: starts first, then ends.
    """
    sounding = np.zeros((len(rows), num_frames, len(labels)), dtype=np.float32)
    boundaries = np.zeros((len(rows), num_frames, 2 * len(labels)), dtype=np.float32)
    for row, target, edges in zip(rows, sounding, boundaries, strict=True):
        for event in row["events"]:
            column = labels.index(event["event_label"])
            covered = frame_coverage([(event["onset"], event["offset"])], num_frames, frame_rate)
            target[:, column] = np.maximum(target[:, column], covered)
            for time, place in ((event["onset"], column), (event["offset"], column + len(labels))):
                edges[min(round(time * frame_rate), num_frames - 1), place] = 1
    return torch.from_numpy(sounding), torch.from_numpy(boundaries)


def read_stems(folder, split, features="stem"):
    """Return the stored features (memory-mapped) and rows of a split, see `recipes/small/stems.py`."""
    stems = np.load(Path(folder) / f"{split}_{features}.npy", mmap_mode="r", allow_pickle=False)
    with open(Path(folder) / f"{split}.jsonl", encoding="utf-8") as file:
        return stems, [json.loads(line) for line in file]


def known_labels(rows):
    """Return the sorted labels that rows contain or list as absent."""
    return sorted({label for row in rows for label in [*row["absent"], *(e["event_label"] for e in row["events"])]})


def blank(features, rng, channel_fraction=0.15):
    """Zero a fraction of the stem's channels in every clip, and a span of up to 0.8 s in half of the clips.

    This prevents memorising the few recordings of a class, and forces the use of context.
    """
    keep = rng.random((features.shape[0], 1, features.shape[2]), dtype=np.float32) > channel_fraction
    features = features * torch.from_numpy(keep / np.float32(1 - channel_fraction))
    for clip in features:
        if rng.random() < 0.5:
            length = int(rng.integers(1, 11))
            start = int(rng.integers(0, max(1, len(clip) - length)))
            clip[start : start + length] = 0
    return features


def encode_frames(model, features):
    """Return the projected frames `(num_clips, num_frames, hidden_size)` of stored features, for either encoder.

    Args:
        features: `(num_clips, num_frames, stem_size)` of a YAMNet encoder's frozen stem, or
            `(num_clips, num_mel_frames, num_mel_bins)` log-mel for a Qwen2-Audio encoder.
    """
    if model.config.audio_config.model_type == "timepro_yamnet":
        hidden = model.model.audio_tower(stem_features=features).last_hidden_state
    else:
        features = features.transpose(1, 2)
        mask = torch.ones((features.shape[0], features.shape[-1]), dtype=torch.long)
        hidden = model.model.audio_tower(features, mask).last_hidden_state
    return model.model.multi_modal_projector(hidden)


@torch.no_grad()
def count_frames(model, stems):
    """Return the number of encoder frames per stored clip."""
    return encode_frames(model, torch.from_numpy(stems[:1].astype(np.float32))).shape[1]


def train_frames(
    model, tokenizer, folder, num_steps=600, batch_size=32, learning_rate=1e-3, seed=0, features="stem", split="train",
    is_continued=False, blank_fraction=0.15, resume=None,
):  # fmt: skip
    """Train encoder and projector on frame labels, in place; return `(head, labels)`.

    The result is a running average of the weights, see [`train_averaged`].

    Args:
        model: a TimePro model.
        tokenizer: its language model's tokenizer.
        folder: folder of the stored features.
        features: kind of stored features, `stem` for a YAMNet encoder and `mel` for a Qwen2-Audio encoder.
        blank_fraction: fraction of the features' channels that are zero in each clip of a step.
        is_continued: keep the projector's weights instead of initialising them.
        resume: folder to save to every 50 steps, and to resume from.
    """
    stems, rows = read_stems(folder, split, features)
    labels = known_labels(rows)
    encoder, projector = model.model.audio_tower, model.model.multi_modal_projector
    targets = frame_targets(rows, labels, count_frames(model, stems), model.config.frame_rate)
    torch.manual_seed(seed)
    head = FrameHead(*label_directions(model.get_input_embeddings(), tokenizer, labels))
    if not is_continued:
        with torch.no_grad():
            projector.linear.weight.normal_(std=0.02 * head.scale)
            projector.linear.bias.zero_()
    trained = nn.ModuleList([encoder, projector, head])
    weight = torch.tensor(BOUNDARY_POSITIVE_WEIGHT)

    def step_loss(rng):
        chosen = np.sort(rng.integers(0, len(rows), batch_size))
        clips = blank(torch.from_numpy(stems[chosen].astype(np.float32)), rng, blank_fraction)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported()):
            frames = encode_frames(model, clips)
        sounding, boundary, length = head(frames)
        loss = F.binary_cross_entropy_with_logits(sounding, targets[0][chosen])
        edges = F.binary_cross_entropy_with_logits(boundary, targets[1][chosen], pos_weight=weight)
        return loss + BOUNDARY_WEIGHT * edges + LENGTH_PENALTY * length / len(labels)

    encoder.train()
    train_averaged(trained, step_loss, num_steps, learning_rate, 50, seed, "frame labels", resume)
    encoder.eval()
    return head, labels


@torch.no_grad()
def frame_f1(model, head, labels, folder, split="validation", thresholds=(0.4,), features="stem"):
    """Return micro-averaged F1 over frames and labels of a split, one value per threshold."""
    stems, rows = read_stems(folder, split, features)
    wanted, _ = frame_targets(rows, labels, count_frames(model, stems), model.config.frame_rate)
    wanted, found = wanted > 0.5, []
    for start in range(0, len(rows), 32):
        clips = torch.from_numpy(stems[start : start + 32].astype(np.float32))
        found.append(torch.sigmoid(head(encode_frames(model, clips))[0]))
    found = torch.cat(found)
    over = [found > threshold for threshold in thresholds]
    return [(2 * (part & wanted).sum() / (part.sum() + wanted.sum())).item() for part in over]
