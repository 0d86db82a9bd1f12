"""TimePro's processor: mel features, prompts that interleave ticks with audio frames, and messages of chats."""

import base64
import copy
import dataclasses
import numbers
import urllib.parse
import urllib.request
from functools import lru_cache

import numpy as np
from transformers import ProcessorMixin

from .answer_text import escape_text
from .audio_io import load_audio
from .events import TimeGrid

# Blocks of messages that hold audio, and seconds to wait for a silent host of one.
AUDIO_TYPES, TIMEOUT = ("audio", "input_audio", "audio_url"), 30
# Like `escape_text`, so that text of every role but the assistant's can spell neither ticks nor placeholders even if a
# server renders the template without the processor.
ESCAPE = "replace('<', '< ') | replace('<  ', '< ') | replace('< \\n', '<\\n')"
# Qwen2-Audio's template, with the assistant's turns marked for completion-only losses, and Qwen2.5's tool calls.
ANSWER_TEMPLATE = (
    "{% generation %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] | default([], true) %}{{ content['text'] }}{% endfor %}{% endif %}"
    "{% for call in message['tool_calls'] or [] %}"
    "\n<tool_call>\n{{ (call['function'] or call) | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>{% endgeneration %}{{ '\\n' }}"
)
CHAT_TEMPLATE = (
    "{% set audio_count = namespace(value=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}" + ANSWER_TEMPLATE + ""
    "{% elif message['content'] is string %}{{ message['content'] | ESCAPE }}<|im_end|>\n"
    "{% else %}"
    "{% for content in message['content'] | default([], true) %}"
    "{% if content['type'] in ('audio', 'input_audio', 'audio_url') %}"
    "{% set audio_count.value = audio_count.value + 1 %}"
    "Audio {{ audio_count.value }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif 'text' in content %}{{ content['text'] | ESCAPE }}{% endif %}"
    "{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
).replace("ESCAPE", ESCAPE)


@lru_cache(maxsize=1024)
def clip_text(grid, audio_token, num_frames, stride=1):
    """Return the text of a clip of `num_frames` frames, with every `stride`-th tick of the [`TimeGrid`]."""
    ticks = grid.tick_tokens()
    return "".join(audio_token if item < 0 else ticks[item] for item in grid.interleave(num_frames, stride))


class TimeProAudioProcessor(ProcessorMixin):
    """Convert audio, and text with audio placeholders, to model inputs.

    Args:
        feature_extractor: computes log-mel features with a hop of 10 ms from 16 kHz audio.
        tokenizer: a fast tokenizer, which must contain the ticks if `time_prompt` is on.
        chat_template: Jinja template with `{% generation %}` marks; by default Qwen2-Audio's.
        audio_token, audio_bos_token, audio_eos_token: placeholder of one audio frame, and the tokens around a clip.
        time_prompt: insert a tick before every audio frame that starts at a multiple of `time_step`.
        time_step: seconds between ticks, and the resolution of times in answers.
        time_stride: insert only every n-th tick.
        max_time: seconds; longer audio is refused, never truncated.
        frame_rate: audio frames per second of the model's encoder.
        answer_format: times in answers, `digits` or `ticks`.
        chunk_length_s: default window length of the pipeline in seconds.
        min_score: by default the pipeline omits detected events with a lower score.

    Raises:
        ValueError: `time_prompt` is on but the tokenizer lacks ticks, or `max_time` exceeds the window of Whisper's
            feature extractor.
    """

    def __init__(
        self, feature_extractor=None, tokenizer=None, chat_template=None, audio_token="<|AUDIO|>",
        audio_bos_token="<|audio_bos|>", audio_eos_token="<|audio_eos|>", time_prompt=True, time_step=0.04,
        max_time=30.0, frame_rate=25.0, answer_format="digits", time_stride=1, min_score=None, chunk_length_s=None,
    ):  # fmt: skip
        self.audio_token, self.audio_bos_token, self.audio_eos_token = audio_token, audio_bos_token, audio_eos_token
        self.time_prompt, self.time_stride, self.answer_format = time_prompt, time_stride, answer_format
        self.time_step, self.max_time, self.frame_rate = time_step, max_time, frame_rate
        self.min_score, self.chunk_length_s = min_score, chunk_length_s
        window = getattr(feature_extractor, "chunk_length", max_time)
        if max_time > window:
            raise ValueError(f"max_time is {max_time:g} s but the audio encoder takes {window:g} s; give that or less.")
        # An encoder without a fixed window accepts whatever the ticks cover.
        if getattr(feature_extractor, "max_length_seconds", max_time) < max_time:
            feature_extractor.max_length_seconds = max_time
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        # Generation needs left padding. The collator pads by itself.
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        if time_prompt:
            vocabulary = tokenizer.get_vocab()
            missing = [token for token in self.grid.tick_tokens() if token not in vocabulary]
            if missing:
                raise ValueError(
                    f"time_prompt is on but the tokenizer lacks {len(missing)} of {self.grid.num_ticks} ticks, first "
                    f"{missing[0]}; convert the checkpoint with this time_step and max_time, or set time_prompt=False."
                )

    @property
    def grid(self):
        """The [`TimeGrid`] of this checkpoint."""
        return TimeGrid(frame_rate=self.frame_rate, time_step=self.time_step, max_time=self.max_time)

    @property
    def sampling_rate(self):
        return self.feature_extractor.sampling_rate

    @property
    def unused_input_names(self):
        return ["num_audio_frames"]

    @property
    def model_input_names(self):
        names = self.tokenizer.model_input_names + ["input_features", "input_features_mask"]
        return list(dict.fromkeys(names))

    def num_frames(self, num_mel_frames):
        """Return the number of audio frames that the encoder outputs for `num_mel_frames` mel frames of 10 ms."""
        mel_per_frame = round(100 / self.frame_rate)
        return ((num_mel_frames - 1) // 2 + 1) // (mel_per_frame // 2)

    def expand_audio(self, num_frames):
        """Return the text of a clip of `num_frames` frames: placeholders, with ticks if `time_prompt` is on."""
        if not self.time_prompt:
            return self.audio_token * num_frames
        return clip_text(self.grid, self.audio_token, num_frames, self.time_stride)

    def __call__(self, text=None, audio=None, **kwargs):
        """Return model inputs for prompts and the clips of their placeholders, in order.

        Args:
            text: a prompt, or a list of prompts.
            audio: a clip, or a list of clips, as [`load_audio`] accepts them.
            kwargs: as for any processor of transformers. With `padding=True` prompts are padded on the left.

        Raises:
            ValueError: different numbers of placeholders and clips, or unusable audio.
        """
        return super().__call__(text=text, audio=audio, **kwargs)

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Convert text and audio to lists, and decode audio that is not an array."""
        if images is not None or videos is not None:
            raise ValueError(f"images and videos are not understood by {type(self).__name__}; pass text and audio.")
        if isinstance(text, str):
            text = [text]
        if audio is not None:
            # A list of numbers is one waveform; any other list is a batch.
            is_batch = isinstance(audio, (list, tuple)) and not (audio and isinstance(audio[0], numbers.Real))
            audio = list(audio) if is_batch else [audio]
            device = (kwargs.get("audio_kwargs") or kwargs).get("device")
            audio = [self._load(item, device) for item in audio]
        if text is not None:
            # Not all versions of transformers check this.
            text, num_clips = list(text), len(audio or ())
            num_tokens = sum(item.count(self.audio_token) for item in text)
            if num_tokens != num_clips:
                raise ValueError(
                    f"text holds {num_tokens} {self.audio_token} but {num_clips} clips are given as audio: the number "
                    f"of {self.audio_token} tokens in the prompts should be the same as the number of clips."
                )
        return None, text, None, audio

    def _load(self, source, device=None):
        source = source.detach().cpu().numpy() if hasattr(source, "detach") else source
        if isinstance(source, (list, tuple)):
            source = np.asarray(source, dtype=np.float32)
        return source if isinstance(source, np.ndarray) else load_audio(source, self.sampling_rate, device=device)

    def check_audio(self, audio, sampling_rate=None):
        """Refuse invalid audio; Whisper's extractor silently accepts integers and NaN, and truncates."""
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"sampling_rate is {sampling_rate} but the model needs {self.sampling_rate}; resample the audio, or "
                "pass paths or dicts of array and sampling_rate, which are resampled."
            )
        for index, waveform in enumerate(audio):
            if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
                raise ValueError(
                    f"audio {index} has shape {waveform.shape} and dtype {waveform.dtype}; pass a mono float array "
                    "(num_samples,) from -1 to 1, or decode it with load_audio."
                )
            if not np.isfinite(waveform).all():
                bad = int((~np.isfinite(waveform)).sum())
                raise ValueError(f"audio {index} holds {bad} NaN or infinite samples; repair or drop it.")
            if len(waveform) > round(self.max_time * self.sampling_rate):
                raise ValueError(
                    f"audio {index} lasts {len(waveform) / self.sampling_rate:.2f} s but max_time is {self.max_time:g} "
                    "s; split it into shorter windows. Nothing is truncated silently."
                )
            if self.num_frames(len(waveform) // 160) < 1:
                raise ValueError(
                    f"audio {index} has {len(waveform)} samples, too short for one frame of "
                    f"{1 / self.frame_rate:g} s at {self.sampling_rate} Hz; pass longer audio."
                )

    def encode_audio(self, waveforms, device=None):
        """Return features of waveforms `(num_samples,)` as tensors, and the text of each: placeholders and ticks.

        Raises:
            ValueError: see [`check_audio`].
        """
        return self._process_audio(waveforms, device=device, return_tensors="pt")

    def _process_audio(self, audio, sampling_rate=None, device=None, return_tensors=None, **kwargs):
        # With a device, torchaudio (for Whisper: torch) computes the features there if it can, and they stay there.
        # Text options such as padding or max_length arrive here too and must not affect the mel features.
        self.check_audio(audio, sampling_rate)
        tensors = "pt" if return_tensors == "pt" else "np"
        options = {"sampling_rate": self.sampling_rate, "return_tensors": tensors}
        options |= {} if device is None else {"device": device}
        # Whisper's extractor has another name for its mask, and would pad to its whole window of 30 s or more.
        if "input_features_mask" not in self.feature_extractor.model_input_names:
            options |= {"padding": "max_length", "truncation": False, "return_attention_mask": True}
            options["max_length"] = self._padded_samples(max(map(len, audio)))
        features = self.feature_extractor(list(audio), **options)
        if "attention_mask" in features:
            features["input_features_mask"] = features.pop("attention_mask")
        lengths = features["input_features_mask"].sum(-1).tolist()
        features["num_audio_frames"] = [self.num_frames(int(length)) for length in lengths]
        return features, [self.expand_audio(count) for count in features["num_audio_frames"]]

    def _padded_samples(self, num_samples):
        """Return the padded length in samples with which Whisper's mel frames equal those of its whole window.

        The windows of the transform extend half their length past a frame, where the end of the padding is reflected.
        The encoder's convolutions read two mel frames past a clip, and halve their number.
        """
        extractor = self.feature_extractor
        margin = max(2, -(-extractor.n_fft // (2 * extractor.hop_length)))
        num_mel_frames = -(-num_samples // extractor.hop_length) + margin
        return min((num_mel_frames + num_mel_frames % 2) * extractor.hop_length, extractor.n_samples)

    def replace_audio_token(self, audio_inputs, audio_idx, **kwargs):
        return self.expand_audio(audio_inputs["num_audio_frames"][audio_idx])

    def apply_chat_template(
        self, conversation, chat_template=None, tokenize=False, audio_url_schemes=("data",), **kwargs
    ):
        """Render, and with `tokenize=True` process, one conversation or a list of conversations.

        Text of every role but the assistant's is escaped, so that a query can spell neither a tick nor a placeholder.
        Audio blocks, whose sound is an array, path, bytes or dict as for [`load_audio`], have one of the forms

            {"type": "audio", "audio" | "path" | "url": sound}
            {"type": "input_audio", "input_audio": {"data": base64, "format": "wav"}}
            {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,..."}}

        Args:
            audio_url_schemes: schemes that an `audio_url` may have, of `data`, `file`, `http` and `https`. The last
                three let the author of a message choose which files and hosts this process reads.

        Raises:
            ValueError: a block that is neither text nor readable audio.
        """
        batched = bool(conversation) and isinstance(conversation[0], (list, tuple))
        conversations = conversation if batched else [conversation]
        device = (kwargs.get("processor_kwargs") or kwargs).get("device")

        def load(block):
            sound = block_sound(block, audio_url_schemes)
            return {"type": "audio"} if sound is None else {"type": "audio", "audio": self._load(sound, device)}

        load = load if tokenize else None
        conversations = [[_prepare_message(message, load) for message in turns] for turns in conversations]
        return super().apply_chat_template(
            conversations if batched else conversations[0], chat_template=chat_template, tokenize=tokenize, **kwargs
        )

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """Save the processor with the pipeline's code, which transformers would not save."""
        from .pipeline_timepro import TemporalAudioGroundingPipeline  # noqa: F401

        # How the tokenizer was found on this machine must not be saved.
        for name in ("is_local", "local_files_only"):
            self.tokenizer.init_kwargs.pop(name, None)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def to_dict(self):
        output = super().to_dict()
        output.pop("audio_token_id", None)
        # Saving removes it from the instance.
        output["auto_map"] = {"AutoProcessor": "processing_timepro.TimeProAudioProcessor"}
        return copy.deepcopy(output)


def _prepare_message(message, load=None):
    """Return a message with escaped text, unless it is the assistant's, and uniform audio blocks.

    Args:
        message: `{"role", "content"}`; the content is text, a list of blocks, or missing, as with `tool_calls`. It, and
            what is in it, may be dataclasses or pydantic models, as of the OpenAI client, in place of dicts.
        load: function from an audio block to `{"type": "audio", "audio": array}`; `None` omits the audio.

    Raises:
        ValueError: a block that is neither text nor audio.
    """
    message = _as_dicts(message)
    escape = (lambda text: text) if message["role"] == "assistant" else escape_text
    # Arrow adds the keys of other messages and blocks, with the value None.
    message = {key: value for key, value in message.items() if value is not None}
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = escape(content)
    elif content is not None:
        blocks = [{key: value for key, value in block.items() if value is not None} for block in content]
        message["content"] = [_prepare_block(block, escape, load) for block in blocks]
    return message


def _as_dicts(value):
    """Return a value with dicts in place of dataclasses and pydantic models; sound is left alone."""
    if callable(getattr(value, "model_dump", None)):
        value = value.model_dump()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _as_dicts(item) for key, item in value.items()}
    return [_as_dicts(item) for item in value] if isinstance(value, (list, tuple)) else value


def _prepare_block(block, escape, load):
    kind = block.get("type") or next((name for name in (*AUDIO_TYPES, "text") if name in block), None)
    if kind in AUDIO_TYPES:
        return load(block) if load else {"type": "audio"}
    # The template renders the text of every block that is not audio.
    if "text" not in block or any("audio" in str(name).lower() for name in (kind, *block)):
        shown = {key: value if isinstance(value, str) and len(value) < 80 else "..." for key, value in block.items()}
        raise ValueError(
            f"content has the block {shown}, which is neither text nor audio that can be read; give audio as "
            '{"type": "audio", "path": ...}, {"type": "input_audio", "input_audio": {"data": ...}} or '
            '{"type": "audio_url", "audio_url": {"url": ...}}.'
        )
    return block | {"type": kind, "text": escape(block["text"])}


def block_sound(block, url_schemes=("data",)):
    """Return the audio of a block as [`load_audio`] accepts it; `None` if the block has none.

    Raises:
        ValueError: invalid base64, a URL whose scheme is not in `url_schemes`, or unknown keys.
        OSError: a URL that cannot be read.
    """
    if "input_audio" in block:
        sound = block["input_audio"]
        return _decode(sound["data"] if isinstance(sound, dict) and "data" in sound else sound)
    if "audio_url" in block:
        sound = block["audio_url"]
        return _fetch(sound["url"] if isinstance(sound, dict) and "url" in sound else sound, url_schemes)
    sound = next((block[key] for key in ("audio", "path", "url") if key in block), None)
    if sound is None and set(block) - {"type", "text"}:
        raise ValueError(f"content has a block of audio with keys {sorted(block)}; call its sound audio, path or url.")
    if isinstance(sound, str) and sound[:5].lower() == "data:":
        return _fetch(sound, url_schemes)
    return sound


def _decode(text):
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"input_audio holds no base64 of an audio file ({error}).") from None


def _fetch(url, schemes):
    scheme, _, rest = url.partition(":") if isinstance(url, str) else ("", "", "")
    if (scheme := scheme.lower()) not in schemes or scheme not in ("data", "file", "http", "https"):
        raise ValueError(
            f"audio_url is {str(url)[:80]!r}, of which only {', '.join(schemes)} may be read here; send the audio as "
            f"data:audio/wav;base64,..., or allow others with audio_url_schemes."
        )
    if scheme == "data":
        head, _, data = rest.partition(",")
        return _decode(data) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(data)
    if scheme == "file":
        return urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        return response.read()


TimeProAudioProcessor.register_for_auto_class()
