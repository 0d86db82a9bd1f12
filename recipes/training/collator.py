"""Batches for supervised fine-tuning: all questions about a clip share its audio prompt."""

from dataclasses import dataclass

import numpy as np
import torch

from processing.audio_io import load_audio
from recipes.training.auxiliary_losses import label_positions
from recipes.training.grounder_loss import question_batch, question_spans


def common_prefix(sequences):
    """Return the length of the longest common prefix."""
    length = 0
    for items in zip(*sequences):
        if any(item != items[0] for item in items[1:]):
            break
        length += 1
    return length


def branch_mask(prefix, branches, length):
    """Return the bool mask `(length, length)` of a shared prompt and its branches.

    The prompt is causal; each branch attends to the prompt and, causally, to itself. Padding attends only to itself, so
    that no row is empty.

    Args:
        prefix: length of the prompt.
        branches: lengths of the branches.
        length: padded length.
    """
    mask = torch.eye(length, dtype=torch.bool)
    start = prefix
    for size in [0, *branches]:
        end = start + size
        mask[start if size else 0 : end, :prefix] = True
        mask[start:end, start:end] = True
        start = end
    return mask & torch.ones(length, length, dtype=torch.bool).tril()


def mask_for(attention, mask, dtype):
    """Convert a mask to the form that an attention implementation expects.

    `eager` adds 4-dimensional masks to its scores, so a bool mask would be added as 0 and 1.

    Args:
        attention: name of the implementation, such as `sdpa`.
        mask: `(batch, length)`, or bool `(batch, 1, length, length)`.
        dtype: that of the scores.
    """
    if attention != "eager" or mask.dim() != 4:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


@dataclass
class TimeProCollator:
    """Turn samples `{"pieces", "turns": [{"question", "answer"[, "event_label"]}]}` into a batch.

    Pieces are `{"audio" or "stem_index", "start", "duration"}` in seconds, see `recipes/data/augmentation.py`; together
    they are the clip.

    All turns of a clip follow its audio prompt in one sequence, with positions restarting and attention blocked between
    them, which is equivalent to separate sequences. With a single turn the mask is the ordinary one.

    Args:
        processor: the checkpoint's [`TimeProAudioProcessor`].
        stems: `(num_clips, num_frames, stem_size)` stored stem features, see `recipes/small/stems.py`.
        max_length: maximum sequence length in tokens; longer sequences are an error, never truncated.
        frame_targets: add targets for a frame grounder, see `recipes/training/grounder_loss.py`.
        name_targets: add `name_targets` to the batch: for each answer token that is a time, or that starts `none`, the
            first token of its label; -100 elsewhere. See `recipes/training/auxiliary_losses.py`.
        blank_fraction: fraction of the stored features' channels that are zero in each clip, drawn anew each time; the
            rest is scaled up. A frozen encoder hears its own training clips better than any others; so it does not.
    """

    processor: object
    stems: np.ndarray | None = None
    max_length: int | None = None
    name_targets: bool = False
    frame_targets: bool = False
    blank_fraction: float = 0.0

    def __call__(self, samples):
        sounds = [np.concatenate([self._read(piece) for piece in sample["pieces"]]) for sample in samples]
        audio, texts = self._encode_audio(sounds)
        clips = [self._encode(sample, text) for sample, text in zip(samples, texts)]
        length = max(len(clip["input_ids"]) for clip in clips)
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"a sequence has {length} tokens but max_length is {self.max_length}; raise it or use shorter clips."
            )
        filled = {"input_ids": self.processor.tokenizer.pad_token_id, "labels": -100}
        if self.name_targets:
            filled["name_targets"] = -100
        batch = {
            name: torch.tensor([clip[name] + [filler] * (length - len(clip[name])) for clip in clips])
            for name, filler in filled.items()
        }
        if any(len(clip["branches"]) > 1 for clip in clips):
            masks = [branch_mask(clip["prefix"], clip["branches"], length) for clip in clips]
            batch["attention_mask"] = torch.stack(masks)[:, None]
            positions = [clip["positions"] + [0] * (length - len(clip["positions"])) for clip in clips]
            batch["position_ids"] = torch.tensor(positions)
        else:
            lengths = torch.tensor([len(clip["input_ids"]) for clip in clips])
            batch["attention_mask"] = (torch.arange(length)[None] < lengths[:, None]).long()
        questions = question_batch(clips, self.processor.grid) if self.frame_targets else {}
        return batch | audio | questions

    def _encode_audio(self, sounds):
        """Return the batch's audio inputs, and the text of each clip: placeholders and ticks."""
        if self.stems is None:
            # Extractors differ in whether they count a final incomplete mel frame.
            features, texts = self.processor.encode_audio(sounds)
            return {name: features[name] for name in ("input_features", "input_features_mask")}, texts
        lengths = torch.tensor([int(len(sound) * 100 // self.processor.grid.frame_rate) for sound in sounds])
        mask = torch.arange(max(lengths))[None] < lengths[:, None]
        if self.blank_fraction:
            keep = [torch.rand(1, sound.shape[1]).numpy() > self.blank_fraction for sound in sounds]
            sounds = [sound * kept / np.float32(1 - self.blank_fraction) for sound, kept in zip(sounds, keep)]
        stems = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(sound) for sound in sounds], batch_first=True)
        texts = [self.processor.expand_audio(self.processor.num_frames(length)) for length in lengths.tolist()]
        return {"stem_features": stems, "input_features_mask": mask.long()}, texts

    def _read(self, piece):
        if self.stems is not None:
            sound, rate = self.stems[piece["stem_index"]], self.processor.grid.frame_rate
        else:
            rate = self.processor.sampling_rate
            sound = load_audio(piece["audio"], sampling_rate=rate)
        start = round(piece["start"] * rate)
        end = None if piece["duration"] is None else start + round(piece["duration"] * rate)
        return sound[start:end].astype(np.float32)

    def _encode(self, sample, audio):
        turns = [self._tokenize(turn, audio) for turn in sample["turns"]]
        # What several turns share, the audio above all, is computed once.
        prefix = common_prefix([turn["input_ids"] for turn in turns]) if len(turns) > 1 else 0
        branches = [len(turn["input_ids"]) - prefix for turn in turns]
        joined = {
            name: turns[0][name][:prefix] + [item for turn in turns for item in turn[name][prefix:]]
            for name in turns[0]
        }
        positions = list(range(prefix)) + [prefix + i for size in branches for i in range(size)]
        made = joined | {"positions": positions, "prefix": prefix, "branches": branches}
        if self.frame_targets:
            audio_token_id = self.processor.audio_token_id
            spans = question_spans(turns, audio_token_id, prefix, branches)
            # Only turns that ask for a label.
            asked = [(span, turn["answer"]) for span, turn in zip(spans, sample["turns"]) if turn.get("event_label")]
            made |= {"questions": asked, "num_frames": turns[0]["input_ids"].count(audio_token_id)}
        return made

    def _tokenize(self, turn, audio):
        messages = [
            {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": turn["question"]}]},
            {"role": "assistant", "content": turn["answer"]},
        ]
        text = self.processor.apply_chat_template(messages)
        tokenizer = self.processor.tokenizer
        start = text.rindex(turn["answer"] + tokenizer.eos_token)
        prompt = text[:start].replace(self.processor.audio_token, audio)
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(turn["answer"] + tokenizer.eos_token, add_special_tokens=False, return_offsets_mapping=True)
        masked, answer_ids = [-100] * len(prompt_ids), list(answer["input_ids"])
        tokens = {"input_ids": list(prompt_ids) + answer_ids, "labels": masked + answer_ids}
        if self.name_targets:
            labels = dict(label_positions(turn["answer"], turn.get("event_label")))
            names = [self._first_token(labels.get(start)) for start, _ in answer["offset_mapping"]]
            tokens["name_targets"] = masked + names
        return tokens

    def _first_token(self, label):
        return -100 if label is None else self.processor.tokenizer(label, add_special_tokens=False)["input_ids"][0]
