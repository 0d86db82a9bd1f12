"""Three auxiliary losses that teach a language model to read times off the audio prompt; none changes the model.

To answer with the tick of an onset, the model must know which label is asked for, some attention head must look at the
frame in which it starts, and pass on the tick that stands before that frame. A large pretrained model can do all of it
already. A small one finds out late or never, since the loss of the answers tells nothing before all are in place; so
each is taught on its own, at one layer:

- clock: the first head of every key-value group passes on the tick of the frame that it looks at;
- pointer: where an answer says a time these heads look at the frame, and where it says that there is none, at the token
  before the clip;
- name: what enters the layer where an answer says either names the label, however far off or in whatever words it
  stands.
"""

import torch
from torch.nn import functional as F
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

READING_LOSSES = ("clock", "pointer", "name")


def tick_before(input_ids, ticks, audio_token_id, audio_eos_token_id):
    """Return `(dated, tick)`, both `(batch, length)`: which positions are dated, and by which tick.

    A frame is dated by the tick that stands before it. The end of a clip is dated by the tick after its last one, if
    the vocabulary has it; positions of frames without a tick of their own are not dated.
    """
    before = F.pad(input_ids[:, :-1], (1, 0))
    is_tick = (input_ids >= ticks.start) & (input_ids < ticks.stop)
    dated = (input_ids == audio_token_id) & (before >= ticks.start) & (before < ticks.stop)
    # The latest tick so far: ticks ascend within a clip, and the end of a clip follows its last frame.
    places = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    latest = torch.where(is_tick, places, 0).cummax(1).values
    following = input_ids.gather(1, latest) + 1
    ends = (input_ids == audio_eos_token_id) & is_tick.cumsum(1).bool() & (following < ticks.stop)
    return dated | ends, torch.where(ends, following, before)


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
        self.layer = text.num_hidden_layers // 2 if layer is None else layer
        self.heads = list(range(0, text.num_attention_heads, text.num_attention_heads // text.num_key_value_heads))

    def __call__(self, hidden, inputs, targets, names=None):
        """Return the losses by their names, [`READING_LOSSES`].

        Args:
            hidden: `(batch, length, hidden_size)` the states that enter the layer.
            inputs: the batch: `input_ids`, `attention_mask`, and `position_ids` where branches share a prompt.
            targets: `(batch, length)` the token that each position has to predict, -100 where none.
            names: `(batch, length)` the first token of the label whose time (or absence) a position has to predict,
                -100 elsewhere.
        """
        config, ids = self.model.config, inputs["input_ids"]
        dated, tick = tick_before(ids, config.time_token_ids, config.audio_token_id, self.end_id)
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
        """Return `(rows, queries, keys)`: in which row each position that says a time has to look where."""
        ticks = self.model.config.time_token_ids
        is_time = (targets >= ticks.start) & (targets < ticks.stop)
        rows, queries = (is_time | (names != -100)).nonzero(as_tuple=True)
        times = is_time[rows, queries][:, None]
        found = torch.where(times, tick[rows] == targets[rows, queries][:, None], ids[rows] == self.start_id)
        kept = found.any(1)
        return rows[kept], queries[kept], found[kept].int().argmax(1)

    def _name(self, hidden, names):
        """Cross entropy of the label's first token in the states, read as the last layer's would be."""
        named = names != -100
        if not named.any():
            return hidden.sum() * 0.0
        logits = self.model.lm_head(self.model.model.language_model.norm(hidden[named]))
        return F.cross_entropy(logits.float(), names[named])

    def _clock(self, attention, states, ticks):
        """Cross entropy of the tick in what the heads would pass on if they looked at a dated position alone."""
        size = attention.head_dim
        values = attention.v_proj(states).unflatten(-1, (-1, size))
        weights = attention.o_proj.weight.unflatten(1, (-1, size))[:, self.heads]
        passed_on = torch.einsum("nhd,ohd->no", values.to(weights.dtype), weights)
        logits = self.model.lm_head(self.model.model.language_model.norm(passed_on))
        return F.cross_entropy(logits.float(), ticks)

    def _pointer(self, attention, states, inputs, rows, queries, keys):
        """Cross entropy of the heads' attention, from the positions that look to the keys that they have to find."""
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
