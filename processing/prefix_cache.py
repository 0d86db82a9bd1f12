"""Ask many questions about a recording, and compute its audio once for all of them.

Nearly all of a prompt is audio: 10 s at 12.5 frames a second and as many ticks are 250 tokens, a question is 20. So the
clip is encoded once, its part of the prompt is put through the language model once, and every question goes on from a
copy of the cache.
"""

import contextlib
from typing import NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

# transformers 5.24 renamed it.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
FEATURES = ("input_features", "input_features_mask")
# Columns that a cache has room for beyond those that it holds.
SPARE_COLUMNS = 64


def accelerator(device: torch.device) -> torch.device | None:
    """Return a model's device if its audio features should be computed there; `None` for the CPU."""
    return None if device.type == "cpu" else device


class PrefixCached(Exception):
    """Raised within the model when the last layer's keys and values of a prefix are known."""


class RoomyLayer(DynamicLayer):
    """Keys and values `(batch, num_heads, num_columns, head_size)` with room for more.

    transformers' own copies all that it holds for every token that is added.
    """

    _layer_type = None
    room = None

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        # Where rows were selected since, keys are a tensor of their own.
        is_own = self.room is not None and start and self.keys.data_ptr() == self.room[0].data_ptr()
        if not is_own or len(self.keys) != len(self.room[0]) or end > self.room[0].shape[-2]:
            shape = (*key_states.shape[:2], end + SPARE_COLUMNS)
            self.room = tuple(part.new_empty(*shape, part.shape[-1]) for part in (key_states, value_states))
            if start:
                for room, part in zip(self.room, (self.keys, self.values)):
                    room[:, :, :start] = part
        for room, part in zip(self.room, (key_states, value_states)):
            room[:, :, start:end] = part
        self.keys, self.values = (room[:, :, :end] for room in self.room)
        return self.keys, self.values


class PrefixCache(DynamicCache):
    """A cache that ends the pass that fills it there: nobody reads what the last layer makes of a prefix.

    That is all of one layer but its keys and values, nearly a quarter of four layers. `dtype` is that of what it holds,
    where that is not to be what comes in: prefixes may be multiplied in shorter numbers than answers.
    """

    is_filled = False

    def __init__(self, config, dtype=None):
        super().__init__(config=config)
        self.dtype = dtype
        self.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in self.layers]

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        if self.dtype is not None:
            key_states, value_states = key_states.to(self.dtype), value_states.to(self.dtype)
        states = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if not self.is_filled and layer_idx == len(self.layers) - 1:
            raise PrefixCached
        return states


@torch.no_grad()
def prefill_questions(
    model, processor, waveforms, questions, num_copies=1, use_cache=True, heard=None, is_assisted=False
):
    """Return the arguments with which `model.generate` answers all questions about all clips.

    Rows are in the order of the questions, those of the first clip first. Answers start after column
    `input_ids.shape[1]`. They are those of separate prompts, but for rounding.

    Args:
        model: a [`TimeProAudioForCausalLM`].
        processor: its [`TimeProAudioProcessor`].
        waveforms: one float array `(num_samples,)` for each clip, at `processor.sampling_rate`.
        questions: for each clip the texts of its questions, see [`prompt_text`]; at least one.
        num_copies: how many sequences `generate` will make of each row: the larger of `num_beams` and
            `num_return_sequences`.
        use_cache: prefill what questions share. Without, each row has its whole prompt, for a cache of `generate`'s
            own, or none.
        heard: the clips, from [`hear`], if they were encoded before.
        is_assisted: whether an assistant of `generate` needs the audio too; nothing is prefilled then.

    Returns:
        `input_ids`, `attention_mask` `(num_rows, length)` and `past_key_values`, which holds all but the last columns;
        it is called `cache` from transformers 5.24 on. Without `use_cache`, `audio_embeds` in its place; for
        assistants, which have an encoder of their own, `input_features` and `input_features_mask`.

    Raises:
        ValueError: a clip has no question, or audio that the processor refuses.
    """
    heard = hear(model, processor, waveforms) if heard is None else heard
    prefixes, owners, rests = _shared_prompts(processor, heard, questions)
    if is_assisted or not use_cache:
        prompts = [[*prefixes[owner][1], *rest] for owner, rest in zip(owners, rests)]
        ids, mask = _pad_left(prompts, processor.tokenizer.pad_token_id, model.device)
        clips = [prefixes[owner][0] for owner in owners]
        inputs = {"input_ids": ids, "attention_mask": mask}
        if not is_assisted:
            return inputs | {"audio_embeds": torch.cat([heard.embeds[clip] for clip in clips])}
        features, _ = processor.encode_audio([waveforms[clip] for clip in clips], accelerator(model.device))
        return inputs | {name: features[name].to(model.device) for name in FEATURES}
    ids, mask, cache = _prefill(model, processor, heard.embeds, prefixes)
    owners = torch.tensor(owners, device=model.device)
    cache.batch_select_indices(owners.repeat_interleave(num_copies))
    # Padding between the prompt and a shorter question is masked, and takes no positions.
    rest_ids, rest_mask = _pad_left(rests, processor.tokenizer.pad_token_id, model.device)
    return {
        "input_ids": torch.cat([ids[owners], rest_ids], dim=1),
        "attention_mask": torch.cat([mask[owners], rest_mask], dim=1),
        CACHE_NAME: cache,
    }


@torch.no_grad()
def score_frames(model, processor, heard, questions):
    """Return how likely the answer to each question sounds in each audio frame, by the model's frame grounder.

    All is answered in one pass, without decoding.

    Args:
        heard: the clips, from [`hear`].
        questions: see [`prefill_questions`].

    Returns:
        for each clip an array `(num_questions, num_frames)` of probabilities, float32; and for each question of all
        clips the label of the frame grounder that it is about, or `None`.
    """
    layer, pad_id = model.frame_grounder.question_layer, processor.tokenizer.pad_token_id
    if layer == 0:
        # The embeddings of a question are the same for all clips.
        texts = list(dict.fromkeys(text for clip in questions for text in clip))
        rests = [rest for _, rest in _prompts(processor, texts, processor.audio_token)]
        ids, mask = _pad_left(rests, pad_id, model.device)
        places = [texts.index(text) for clip in questions for text in clip]
        states, rest_mask = model.get_input_embeddings()(ids)[places], mask[places]
    else:
        prefixes, owners, rests = _shared_prompts(processor, heard, questions)
        rest_ids, rest_mask = _pad_left(rests, pad_id, model.device)
        _, mask, cache = _prefill(model, processor, heard.embeds, prefixes)
        owners = torch.tensor(owners, device=model.device)
        cache.batch_select_indices(owners)
        whole_mask = torch.cat([mask[owners], rest_mask], dim=1)
        states = model.model(
            input_ids=rest_ids,
            attention_mask=whole_mask,
            position_ids=(whole_mask.cumsum(-1) - 1).clamp(min=0)[:, -rest_ids.shape[1] :],
            output_hidden_states=True,
            **{CACHE_NAME: cache},
        ).hidden_states[layer]
    padded = torch.nn.utils.rnn.pad_sequence(heard.frames, batch_first=True)
    lengths = torch.tensor([len(part) for part in heard.frames], device=padded.device)
    is_frame = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
    sizes = [len(texts) for texts in questions]
    clips = torch.arange(len(sizes), device=padded.device).repeat_interleave(torch.tensor(sizes, device=padded.device))
    logits = model.frame_grounder(padded, is_frame, states, rest_mask.bool(), clips)
    parts = logits.sigmoid().cpu().split(sizes)
    scores = [part[:, :length].numpy() for part, length in zip(parts, lengths.tolist(), strict=True)]
    return scores, model.frame_grounder.labels_asked(states, rest_mask.bool())


class Heard(NamedTuple):
    """Clips that went through the encoder.

    Attributes:
        embeds, frames: of each clip, what stands for its audio in a prompt, and what the frame grounder gets.
        texts: of each clip its placeholders in a prompt.
    """

    embeds: tuple[torch.Tensor, ...]
    frames: tuple[torch.Tensor, ...]
    texts: list[str]


@torch.no_grad()
def hear(model, processor, waveforms, stem_features=None) -> Heard:
    """Encode clips, once for all that is asked about them.

    Args:
        waveforms: one float array `(num_samples,)` for each clip, at `processor.sampling_rate`.
        stem_features: `(1, num_frames, stem_size)` of the one clip there is, from a [`StreamingStem`]; it is then not
            encoded again, and its waveform tells its length alone.

    Raises:
        ValueError: audio that the processor refuses.
    """
    if stem_features is None:
        features, texts = processor.encode_audio(waveforms, accelerator(model.device))
        features = {name: features[name].to(model.device) for name in FEATURES}
    else:
        (waveform,) = waveforms
        mask = torch.ones(1, len(waveform) // processor.feature_extractor.hop_length, dtype=torch.long)
        features = {"stem_features": stem_features, "input_features_mask": mask.to(model.device)}
        texts = [processor.expand_audio(stem_features.shape[1])]
    counts = [text.count(processor.audio_token) for text in texts]
    with _audio_dtype(model):
        found = model.get_audio_features(**features)
    return Heard(found.pooler_output.split(counts), found.encoder_frames.split(counts), texts)


def _shared_prompts(processor, heard, questions):
    """Return the prompts up to the last frame `(clip, token ids)`, and for each question its prompt and rest.

    What comes before the last frame is computed once. A template may put the question before it: then no row shares.
    """
    if len(heard.texts) != len(questions) or not all(questions):
        raise ValueError(
            f"questions has {[len(texts) for texts in questions]} texts for {len(heard.texts)} clips; give one or more "
            "for each clip."
        )
    prefixes, owners, rests = {}, [], []
    for clip, (texts, clip_text) in enumerate(zip(questions, heard.texts, strict=True)):
        for prompt, rest in _prompts(processor, texts, clip_text):
            owners.append(prefixes.setdefault((clip, tuple(prompt)), len(prefixes)))
            rests.append(rest)
    return list(prefixes), owners, rests


def _prompts(processor, texts, clip_text):
    """Return of each prompt the token ids up to the last frame, and those of the rest."""
    conversations = [
        [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": text}]}] for text in texts
    ]
    rendered = processor.apply_chat_template(conversations, add_generation_prompt=True)
    expanded = [text.replace(processor.audio_token, clip_text) for text in rendered]
    prompts = processor.tokenizer(expanded, add_special_tokens=False)["input_ids"]
    ends = [len(prompt) - prompt[::-1].index(processor.audio_token_id) for prompt in prompts]
    return [(prompt[:end], prompt[end:]) for prompt, end in zip(prompts, ends)]


def _prefill(model, processor, embeds, prefixes):
    """Put prompts `(clip, token ids)` through the model; return their ids, mask and cache."""
    ids, mask = _pad_left([prefix for _, prefix in prefixes], processor.tokenizer.pad_token_id, model.device)
    is_shorter = getattr(model.model.audio_tower, "cpu_dtype", None) is not None
    cache = PrefixCache(model.config.get_text_config(), model.dtype if is_shorter else None)
    # What moves weights between devices does so at the end of a layer, which is therefore to be reached.
    cache.is_filled = getattr(model, "hf_device_map", None) is not None
    with contextlib.suppress(PrefixCached), _audio_dtype(model):
        model.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            audio_embeds=torch.cat([embeds[clip] for clip, _ in prefixes]),
            past_key_values=cache,
        )
    cache.is_filled = True
    return ids, mask, cache


def _audio_dtype(model):
    """Return a context in which a CPU multiplies in the numbers that were chosen for it, see `set_cpu_dtype`."""
    dtype = getattr(model.model.audio_tower, "cpu_dtype", None)
    return contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype)


def _pad_left(rows, pad_id, device):
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask
