"""A head that answers a question frame by frame: the question's states of the language model, attended by audio frames.

One forward pass gives one logit for each frame, without decoding. The frames are those of the backbone's own encoder,
before and beside the language model; what the head reads of the language model are the states that enter its last
layer, or its embeddings, at the text tokens that follow the audio.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.masking_utils import create_bidirectional_mask

from .yamnet_encoder import TRUNK_BLOCKS, ContextLayer, rotary_angles
from .yamnet_encoder_config import TimeProYamnetConfig

DECODES = ("text", "frames", "both", "either")
# What stands for a frame: the encoder's output, or, of a YAMNet encoder, its frozen stem.
FRAMES = ("encoder", "stem")
# How a question meets a frame: by attention and a small network, or by choosing one of the labels of a linear map.
MATCHES = ("attention", "labels")
# Sizes of the head (the width of feed-forward parts is by default twice `hidden_size`), and the names of its labels,
# where it matches by labels; then how scores become events, see `frame_decoding.py`.
# Queries may be decoded otherwise than detection, and are mostly about what is there, so that a lower threshold serves
# them; a higher one serves detection by `either`, where frames only add to the text. `None` is what detection has.
FRAME_GROUNDER = {
    "frames": "encoder",
    "match": "attention",
    "labels": None,
    "hidden_size": 192,
    "intermediate_size": None,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "dropout": 0.1,
    "decode": "text",
    "query_decode": None,
    "threshold": 0.5,
    "query_threshold": None,
    "either_threshold": None,
    "median_filter_s": 0.24,
    "min_gap_s": 0.16,
    "min_length_s": 0.08,
}


def frame_grounder_settings(settings):
    """Return the settings of a frame grounder, `None` for none, with the defaults for what is left out.

    Raises:
        ValueError: unknown settings, or values that cannot be.
    """
    if settings is None:
        return None
    if not isinstance(settings, dict) or set(settings) - set(FRAME_GROUNDER):
        raise ValueError(f"frame_grounder is {settings!r}; give None, or a dict with some of {sorted(FRAME_GROUNDER)}.")
    settings = {**FRAME_GROUNDER, **settings}
    for name, source in (
        ("query_decode", "decode"),
        ("query_threshold", "threshold"),
        ("either_threshold", "threshold"),
    ):
        if settings[name] is None:
            settings[name] = settings[source]
    for name, choices in (
        ("decode", DECODES), ("query_decode", DECODES), ("frames", FRAMES), ("match", MATCHES),
    ):  # fmt: skip
        if settings[name] not in choices:
            raise ValueError(f"frame_grounder has {name} {settings[name]!r}; choose one of {choices}.")
    if (settings["match"] == "labels") != bool(settings["labels"]):
        raise ValueError(
            f"frame_grounder has match {settings['match']!r} and labels {settings['labels']!r}; a match by labels "
            "needs them, and no other has any."
        )
    if settings["match"] != "labels" and "either" in (settings["decode"], settings["query_decode"]):
        raise ValueError("frame_grounder has decode 'either', which needs a head with labels; use 'both'.")
    settings["intermediate_size"] = settings["intermediate_size"] or 2 * settings["hidden_size"]
    if settings["hidden_size"] % settings["num_attention_heads"]:
        raise ValueError(
            f"frame_grounder has hidden_size {settings['hidden_size']} and num_attention_heads "
            f"{settings['num_attention_heads']}; the heads must divide the size."
        )
    for name in ("median_filter_s", "min_gap_s", "min_length_s"):
        if not settings[name] >= 0:
            raise ValueError(f"frame_grounder has {name} {settings[name]}; give seconds, 0 or more.")
    for name in ("threshold", "query_threshold", "either_threshold"):
        if not 0 < settings[name] < 1:
            raise ValueError(f"frame_grounder has {name} {settings[name]}; give a number between 0 and 1.")
    return settings


def frame_size(config):
    """Return the size of the frames that the head is given.

    Raises:
        ValueError: the stem of an encoder that has none.
    """
    audio = config.audio_config
    if config.frame_grounder["frames"] == "encoder":
        return getattr(audio, "output_dim", audio.hidden_size)
    if audio.model_type != TimeProYamnetConfig.model_type:
        raise ValueError("frame_grounder has frames 'stem', but only a timepro_yamnet encoder has one; use 'encoder'.")
    return sum(TRUNK_BLOCKS[layer][0] for layer in audio.stem_layers)


class FrameContext(nn.Module):
    """Context layers over the frames of a clip, the same whatever is asked."""

    # Which of the language model's states stand for a question: the input of this layer. 0: the embeddings.
    question_layer = -2

    def __init__(self, config):
        super().__init__()
        settings = config.frame_grounder
        size, self.num_heads = settings["hidden_size"], settings["num_attention_heads"]
        self.config = config
        self.context = TimeProYamnetConfig(
            hidden_size=size,
            num_attention_heads=self.num_heads,
            intermediate_size=settings["intermediate_size"],
            dropout=settings["dropout"],
        )
        # Without weights of its own, since a linear map follows: training then needs no gradient of its input.
        self.frame_norm = nn.LayerNorm(frame_size(config), elementwise_affine=False)
        self.frame_in = nn.Linear(frame_size(config), size)
        self.dropout = nn.Dropout(settings["dropout"])
        self.layers = nn.ModuleList([ContextLayer(self.context) for _ in range(settings["num_hidden_layers"])])
        # Attention is computed as it is set for the whole model.
        for layer in self.layers:
            layer.attention.config = config
        self.norm = nn.LayerNorm(size)

    def reset_parameters(self):
        """Draw weights large enough that the question tells from the first step on; few frames sound, says the bias."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.score.bias, -2.5)

    def forward(self, frames, frame_mask, question_states, question_mask, clips=None):
        """Return the logits `(num_questions, num_frames)`, float32; those of padding mean nothing.

        Args:
            frames: `(num_clips, num_frames, size)` frames of the encoder.
            frame_mask: bool `(num_clips, num_frames)`, true for frames that are no padding.
            question_states: `(num_questions, num_tokens, hidden_size)` the language model's `question_layer`.
            question_mask: bool `(num_questions, num_tokens)`.
            clips: `(num_questions,)` index of the clip that each question is about; by default one question each.
        """
        heard = self.encode(frames, frame_mask)
        clips = torch.arange(len(frames), device=frames.device) if clips is None else clips
        return self.match(heard, question_states, question_mask, clips)

    def labels_asked(self, question_states, question_mask):
        """Return for each question the label that it is about, `None` for none, or if the head has no labels."""
        return [None] * len(question_states)

    def encode(self, frames, frame_mask):
        """Return the frames in their context, `(num_clips, num_frames, hidden_size)`, whatever is asked."""
        dtype = self.frame_in.weight.dtype
        states = self.dropout(self.frame_in(self.frame_norm(frames.to(dtype))))
        head_size = states.shape[2] // self.num_heads
        angles = rotary_angles(states.shape[1], head_size, self.context.rope_theta, states.device)
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        mask = None if bool(frame_mask.all()) else frame_mask
        attention_mask = mask
        if mask is not None:
            attention_mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=mask)
        for layer in self.layers:
            states = layer(states, cos, sin, mask, attention_mask)
        return self.norm(states)


class TimeProFrameGrounder(FrameContext):
    """Score audio frames by a question.

    Frames in their context attend to the tokens of a question (cross-attention; frames are the queries), and what they
    find, alone and times the frame, becomes one logit.
    """

    def __init__(self, config):
        super().__init__(config)
        size, text_size = config.frame_grounder["hidden_size"], config.text_config.hidden_size
        self.text_norm = nn.LayerNorm(text_size)
        self.query, self.key, self.value = nn.Linear(size, size), nn.Linear(text_size, size), nn.Linear(text_size, size)
        # A linear map of [frame, found, frame * found]; the first part is the same for all questions.
        self.match_frame, self.match_found, self.match_both = (nn.Linear(size, size) for _ in range(3))
        self.score = nn.Linear(size, 1)

    def match(self, heard, question_states, question_mask, clips):
        """Return the logits `(num_questions, num_frames)` of frames, or of some of them, that [`encode`] returned."""
        query, alone = self.query(heard), self.match_frame(heard)
        text = self.text_norm(question_states.to(heard.dtype))
        query, key, value = (self._heads(states) for states in (query[clips], self.key(text), self.value(text)))
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=question_mask[:, None, None, :])
        found = found.transpose(1, 2).flatten(2)
        matched = F.gelu(alone[clips] + self.match_found(found) + self.match_both(heard[clips] * found))
        return self.score(self.dropout(matched))[..., 0].float()

    def _heads(self, states):
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class TimeProLabelGrounder(FrameContext):
    """Score audio frames for each of a set of labels, and let the question choose the label that it asks about.

    One linear map gives the probability of each label in each frame, another the probability that the question is about
    each label, or about none of them, by the words of the question alone; a frame has the sum of their products. It
    needs far fewer recordings than a head that may answer any question, and no pass of the language model.
    """

    question_layer = 0

    def __init__(self, config):
        super().__init__(config)
        settings, text_size = config.frame_grounder, config.text_config.hidden_size
        self.score = nn.Linear(settings["hidden_size"], len(settings["labels"]))
        self.text_norm = nn.LayerNorm(text_size, elementwise_affine=False)
        self.choose = nn.Linear(2 * text_size, len(settings["labels"]) + 1)

    def match(self, heard, question_states, question_mask, clips):
        """Return the logits `(num_questions, num_frames)` of frames, or of some of them, that [`encode`] returned."""
        choice = self.choose(self.summary(question_states, question_mask)).softmax(-1)[:, :-1]
        return torch.einsum("qtl,ql->qt", self.score(heard).sigmoid()[clips], choice).float().logit(1e-6)

    def labels_asked(self, question_states, question_mask):
        """Return for each question the label that it is most likely about, `None` for none."""
        choice = self.choose(self.summary(question_states, question_mask)).argmax(-1)
        return [(*self.config.frame_grounder["labels"], None)[place] for place in choice.tolist()]

    def summary(self, question_states, question_mask):
        """Return what the choice is made by: mean and maximum over the question, `(num_questions, 2 * hidden_size)`."""
        states, is_token = self.text_norm(question_states.to(self.choose.weight.dtype)), question_mask[..., None]
        mean = (states * is_token).sum(1) / is_token.sum(1)
        return torch.cat([mean, states.masked_fill(~is_token, torch.finfo(states.dtype).min).amax(1)], -1)


def make_frame_grounder(config):
    """Return the head that a configuration describes, or `None`."""
    if config.frame_grounder is None:
        return None
    has_labels = config.frame_grounder["match"] == "labels"
    return (TimeProLabelGrounder if has_labels else TimeProFrameGrounder)(config)


class FrameGroundedModel:
    """What a causal language model needs to use a frame grounder, which it holds as `frame_grounder`, or `None`."""

    def add_frame_grounder(self, **settings):
        """Give the model a head that answers frame by frame, with random weights, see `frame_grounder.py`."""
        self.config.frame_grounder = frame_grounder_settings(settings)
        self.frame_grounder = make_frame_grounder(self.config).to(self.device, self.dtype)
        self.frame_grounder.reset_parameters()

    def _ground(self, outputs, input_ids, tokens, rows):
        if self.frame_grounder is None:
            raise ValueError("question_tokens is given but there is no frame grounder; call add_frame_grounder first.")
        counts = (input_ids == self.config.audio_token_id).sum(1)
        frames = nn.utils.rnn.pad_sequence(outputs.encoder_frames.split(counts.tolist()), batch_first=True)
        mask = torch.arange(frames.shape[1], device=frames.device) < counts[:, None]
        states = outputs.hidden_states[self.frame_grounder.question_layer][rows[:, None], tokens.clamp(min=0)]
        return self.frame_grounder(frames, mask, states, tokens >= 0, rows)
