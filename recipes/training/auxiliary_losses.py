"""Three auxiliary losses that teach a language model to read times from the audio prompt; none changes the model.

To answer with the tick of an onset, the model must know which label is asked for, an attention head must attend to the
frame in which it starts, and copy the tick before that frame. A large pretrained model can already do this. A small one
learns it late or never, since the answer loss has no gradient towards one of these skills before it has the others; so
each is trained separately, at one layer:

- clock: the first head of every key-value group copies the tick of the frame to which it attends;
- pointer: when generating a time, these heads attend to its frame; before `none`, to the token before the clip;
- name: at these positions the input of the layer encodes the label, wherever and however the prompt names it.
"""

import re
from functools import lru_cache

import torch
from torch.nn import functional as F
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from processing import TimeGrid
from processing.answer_text import NO_EVENTS, unescape_label

READING_LOSSES = ("clock", "pointer", "name")
_LABEL = re.compile(r"(?:^|; )((?:[^\\:;]|\\.)+): ")
_TIME_TOKEN = re.compile(r"<[0-9]+\.[0-9]+>")


def dates(input_ids, grid, audio_token_id, start_id, end_id):
    """Return the tick `(batch, length)` of each position of a clip, -1 for positions without one.

    A frame has the tick that precedes it, whether that is in the prompt or not. The end of a clip has the first tick
    that is not before it. Frames without a tick, and ends after the last tick, have none.

    Args:
        input_ids: `(batch, length)` tokens.
        grid: the checkpoint's [`TimeGrid`].
        audio_token_id, start_id, end_id: ids of a frame's placeholder and of the tokens that enclose a clip.
    """
    is_frame = input_ids == audio_token_id
    num_frames = is_frame.cumsum(1)
    # Count from the start of each clip of a row.
    before_clip = torch.where(input_ids == start_id, num_frames, 0).cummax(1).values
    index = (num_frames - before_clip - is_frame.long()).clamp(max=grid.max_frames)
    of_frame, of_end = _ticks_of(grid)
    found = torch.where(is_frame, of_frame.to(index.device)[index], of_end.to(index.device)[index])
    return torch.where(is_frame | (input_ids == end_id), found, -1)


@lru_cache(maxsize=8)
def _ticks_of(grid):
    """Return the ticks `(max_frames + 1,)` of frames, and of clip ends before these frames, by index; -1 for none."""
    of_frame, of_end = torch.full((2, grid.max_frames + 1), -1)
    frames = [grid.tick_frame(tick) for tick in range(grid.num_ticks)]
    for tick, frame in reversed(list(enumerate(frames))):
        of_end[(frames[tick - 1] + 1 if tick else 0) : frame + 1] = tick
        if frame <= grid.max_frames:
            of_frame[frame] = tick
    return of_frame, of_end


class TimeReading:
    """The three losses, at one layer of a model.

    Args:
        model: a [`TimeProAudioForCausalLM`].
        tokenizer: its tokenizer, which knows the tokens that enclose a clip.
        layer: index of the decoder layer; half of the depth by default.
    """

    def __init__(self, model, tokenizer, layer=None):
        text = model.config.text_config
        self.model = model
        self.start_id, self.end_id = tokenizer.convert_tokens_to_ids(["<|audio_bos|>", "<|audio_eos|>"])
        config = model.config
        self.grid = TimeGrid(config.frame_rate, config.time_step, config.max_time)
        self.layer = text.num_hidden_layers // 2 if layer is None else layer
        self.heads = list(range(0, text.num_attention_heads, text.num_attention_heads // text.num_key_value_heads))

    def __call__(self, hidden, inputs, targets, names=None):
        """Return the losses by their names, [`READING_LOSSES`].

        Args:
            hidden: `(batch, length, hidden_size)` the states that enter the layer.
            inputs: the batch: `input_ids`, `attention_mask`, and `position_ids` if branches share a prompt.
            targets: `(batch, length)` the token that each position predicts, -100 for none.
            names: `(batch, length)` first token of the label whose time (or absence) a position predicts, -100
                elsewhere.
        """
        config, ids = self.model.config, inputs["input_ids"]
        tick = dates(ids, self.grid, config.audio_token_id, self.start_id, self.end_id)
        dated, tick = tick >= 0, tick + config.time_token_ids.start
        decoder = self.model.model.language_model.layers[self.layer]
        states = decoder.input_layernorm(hidden)
        names = torch.full_like(targets, -100) if names is None else names
        looked_at = self._looked_at(ids, targets, names, torch.where(dated, tick, -1))
        return {
            "clock": self._clock(decoder.self_attn, states[dated], tick[dated]),
            "pointer": self._pointer(decoder.self_attn, states, inputs, *looked_at),
            "name": self._name(hidden, names),
        }

    def _looked_at(self, ids, targets, names, tick):
        """Return `(rows, queries, keys)`: the position to which each position that predicts a time must attend."""
        ticks = self.model.config.time_token_ids
        is_time = (targets >= ticks.start) & (targets < ticks.stop)
        rows, queries = (is_time | (names != -100)).nonzero(as_tuple=True)
        times = is_time[rows, queries][:, None]
        found = torch.where(times, tick[rows] == targets[rows, queries][:, None], ids[rows] == self.start_id)
        kept = found.any(1)
        return rows[kept], queries[kept], found[kept].int().argmax(1)

    def _name(self, hidden, names):
        """Cross-entropy of the label's first token, read from the states as if they were the last layer's."""
        named = names != -100
        if not named.any():
            return hidden.sum() * 0.0
        logits = self.model.lm_head(self.model.model.language_model.norm(hidden[named]))
        return F.cross_entropy(logits.float(), names[named])

    def _clock(self, attention, states, ticks):
        """Cross-entropy of the tick, read from the heads' output if they attended only to the position of that tick."""
        size = attention.head_dim
        values = attention.v_proj(states).unflatten(-1, (-1, size))
        weights = attention.o_proj.weight.unflatten(1, (-1, size))[:, self.heads]
        passed_on = torch.einsum("nhd,ohd->no", values.to(weights.dtype), weights)
        logits = self.model.lm_head(self.model.model.language_model.norm(passed_on))
        return F.cross_entropy(logits.float(), ticks)

    def _pointer(self, attention, states, inputs, rows, queries, keys):
        """Cross-entropy of the heads' attention from the query positions to the key positions."""
        if not len(rows):
            return states.sum() * 0.0
        length = states.shape[1]
        size = attention.head_dim
        query = attention.q_proj(states).unflatten(-1, (-1, size)).transpose(1, 2)[:, self.heads]
        key = attention.k_proj(states).unflatten(-1, (-1, size)).transpose(1, 2)
        positions = inputs.get("position_ids", torch.arange(length, device=states.device)[None])
        query, key = apply_rotary_pos_emb(query, key, *self.model.model.language_model.rotary_emb(states, positions))
        scores = torch.einsum("nhd,nhld->nhl", query[rows, :, queries], key[rows]).float() * attention.scaling
        mask = inputs["attention_mask"]
        if mask.dim() == 4:
            visible = mask[rows, 0, queries].bool()
        else:
            visible = mask[rows].bool() & (torch.arange(length, device=states.device)[None] <= queries[:, None])
        scores = scores.masked_fill(~visible[:, None], torch.finfo(scores.dtype).min)
        return F.cross_entropy(scores.flatten(0, 1), keys.repeat_interleave(len(self.heads)))


def label_positions(answer, event_label=None):
    """Return `[(position, label)]`: the character positions of times, or of `none`, in an answer in ticks.

    In detection the label precedes its times; in grounding the question names it.

    Args:
        answer: from [`format_events`] with `answer_format="ticks"`.
        event_label: the label of a grounding question; `None` for detection.
    """
    if event_label is not None:
        starts = [0] if answer == NO_EVENTS else [match.start() for match in _TIME_TOKEN.finditer(answer)]
        return [(start, event_label) for start in starts]
    named = [(match.end(), unescape_label(match[1])) for match in _LABEL.finditer(answer)]
    positions = []
    for match in _TIME_TOKEN.finditer(answer):
        before = [label for end, label in named if end <= match.start()]
        if before:
            positions.append((match.start(), before[-1]))
    return positions
