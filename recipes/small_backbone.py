"""Build the small backbone: YAMNet's trunk, context layers trained to name every frame, and the small language model.

    python -m recipes.small_backbone --language-model DIR --weights yamnet.safetensors --stems DIR --out DIR

The context layers learn by a frame-level loss (which labels sound in each frame), whose head is then dropped; a
language model learns many times faster to read frames that already say what sounds in them.
"""

import argparse
import json
import logging
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM, TimeProYamnetConfig
from processing import TimeProAudioProcessor, TimeProYamnetFeatureExtractor
from recipes.checkpoint import save_checkpoint
from recipes.yamnet_weights import load_trunk

logger = logging.getLogger(__name__)


def join(language_model, weights):
    """Return `(model, processor)`: the trained language model behind a YAMNet tower, without ticks.

    Args:
        language_model: directory of a small Qwen2 and its tokenizer, see `recipes/small_language.py`.
        weights: YAMNet's `safetensors` file, see `recipes/yamnet_weights.py`.
    """
    language = AutoModelForCausalLM.from_pretrained(language_model)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    audio = TimeProYamnetConfig()
    frame_rate = 100 / audio.mel_per_frame
    config = TimeProAudioConfig(
        audio_config=audio,
        text_config=language.config.to_dict(),
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        time_prompt=False,
        frame_rate=frame_rate,
    )
    model = TimeProAudioForCausalLM(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    load_trunk(model.model.audio_tower.trunk, load_file(weights))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    extractor = TimeProYamnetFeatureExtractor(mel_per_frame=audio.mel_per_frame)
    return model, TimeProAudioProcessor(extractor, tokenizer, time_prompt=False, frame_rate=frame_rate)


def frame_targets(rows, labels, num_frames, frame_rate):
    """Return float targets `(num_clips, num_frames, num_labels)`: the share of each frame in which a label sounds."""
    targets = np.zeros((len(rows), num_frames, len(labels)), dtype=np.float32)
    starts = np.arange(num_frames) / frame_rate
    for row, target in zip(rows, targets):
        for event in row["events"]:
            covered = np.minimum(event["offset"], starts + 1 / frame_rate) - np.maximum(event["onset"], starts)
            column = labels.index(event["event_label"])
            target[:, column] = np.maximum(target[:, column], np.clip(covered * frame_rate, 0, 1))
    return torch.from_numpy(targets)


def read_stems(folder, split):
    """Return the stored stem features (memory-mapped) and rows of a split, see `recipes/data/stem_cache.py`."""
    stems = np.load(Path(folder) / f"{split}_stem.npy", mmap_mode="r", allow_pickle=False)
    with open(Path(folder) / f"{split}.jsonl", encoding="utf-8") as file:
        return stems, [json.loads(line) for line in file]


def train_frames(tower, folder, num_steps=600, batch_size=32, learning_rate=1e-3, seed=0):
    """Train the tower's context layers on frame labels, in place; return the head and the labels it names.

    Batches are drawn at random; random spans of time and of stem channels are blanked, and pairs of clips are mixed,
    so that the few recordings of a class are not learnt by heart.
    """
    stems, rows = read_stems(folder, "train")
    labels = sorted({label for row in rows for label in [*row["absent"], *(e["event_label"] for e in row["events"])]})
    frame_rate = 100 / tower.config.mel_per_frame
    targets = frame_targets(rows, labels, stems.shape[1], frame_rate)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    head = nn.Linear(tower.config.hidden_size, len(labels))
    nn.init.constant_(head.bias, -3.0)
    parameters = [p for p in tower.parameters() if p.requires_grad] + list(head.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / num_steps))
    )
    tower.train()
    bar = tqdm(range(num_steps), desc="frame labels")
    for step in bar:
        chosen = rng.integers(0, len(rows), batch_size)
        features = torch.from_numpy(stems[np.sort(chosen)].astype(np.float32))
        wanted = targets[np.sort(chosen)]
        keep = torch.rand(features.shape[0], 1, features.shape[2]) > 0.15
        features = features * keep
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = tower(stem_features=features).last_hidden_state
        logits = head(hidden.float())
        loss = F.binary_cross_entropy_with_logits(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    tower.eval()
    return head, labels


@torch.no_grad()
def frame_f1(tower, head, labels, folder, split="validation", threshold=0.4):
    """Return the micro F1 over frames and labels of a split."""
    stems, rows = read_stems(folder, split)
    wanted = frame_targets(rows, labels, stems.shape[1], 100 / tower.config.mel_per_frame) > 0.5
    found = []
    for start in range(0, len(rows), 32):
        hidden = tower(stem_features=torch.from_numpy(stems[start : start + 32].astype(np.float32))).last_hidden_state
        found.append(torch.sigmoid(head(hidden)) > threshold)
    found = torch.cat(found)
    return (2 * (found & wanted).sum() / (found.sum() + wanted.sum())).item()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language-model", required=True, help="directory of the small language model")
    parser.add_argument("--weights", required=True, help="YAMNet's safetensors file")
    parser.add_argument("--stems", required=True, help="directory of stored stem features: train, validation")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--num-steps", type=int, default=600, help="steps of the frame-level loss; 0 to skip it")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    torch.manual_seed(arguments.seed)
    model, processor = join(arguments.language_model, arguments.weights)
    if arguments.num_steps:
        tower = model.model.audio_tower
        head, labels = train_frames(tower, arguments.stems, arguments.num_steps, seed=arguments.seed)
        model.config.event_labels = labels
        logger.info("frame F1 on validation: %.3f", frame_f1(tower, head, labels, arguments.stems))
    save_checkpoint(model, processor, arguments.out)


if __name__ == "__main__":
    main()
