"""Log-mel features of YAMNet, one column per 10 ms, centred on the grid of the time tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank, window_function
from transformers.utils import logging

from .audio_mixing import import_torchaudio

logger = logging.get_logger(__name__)

LOG_OFFSET = 1e-3
WINDOW_LENGTH = 400
FFT_LENGTH = 512


class TimeProYamnetFeatureExtractor(SequenceFeatureExtractor):
    """Compute YAMNet's log-mel features of 16 kHz waveforms (Hershey et al. 2017; 64 HTK mel bins, 125 to 7500 Hz).

    Windows of 25 ms every 10 ms; window `k` is centred at `k * 10` ms, so a clip of `n` samples has `n // 160`
    columns. Shorter clips of a batch are padded with the value of digital silence and masked.

    Args:
        feature_size: number of mel bins.
        sampling_rate: required sampling rate in hertz.
        hop_length: samples from one column to the next.
        max_length_seconds: longest clip accepted, in seconds; longer audio is refused, never truncated.
        mel_per_frame: columns per audio frame of the encoder; a clip must be long enough for one frame.
        padding_value: value of padded columns.
    """

    model_input_names = ["input_features", "input_features_mask"]  # noqa: RUF012

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        max_length_seconds: float = 30.0,
        mel_per_frame: int = 8,
        padding_value: float = float(np.log(LOG_OFFSET)),
        **kwargs: Any,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.hop_length = hop_length
        self.max_length_seconds = max_length_seconds
        self.mel_per_frame = mel_per_frame
        # `to_dict` omits attributes of these two names from the saved file.
        self.mel_filters = mel_filter_bank(
            FFT_LENGTH // 2 + 1, feature_size, 125.0, 7500.0, sampling_rate, mel_scale="htk",
            triangularize_in_mel_space=True,
        ).astype(np.float32)  # fmt: skip
        self.window = window_function(WINDOW_LENGTH, "hann").astype(np.float32)

    @property
    def min_num_samples(self) -> int:
        """Return the length in samples of the shortest clip that yields one audio frame."""
        return (self.mel_per_frame - 1) * self.hop_length

    def log_mel(self, waveform: np.ndarray) -> np.ndarray:
        """Compute the features of one waveform.

        Args:
            waveform: float array (num_samples,), at `sampling_rate`.

        Returns:
            float32 array (feature_size, num_samples // hop_length).
        """
        num_mel_frames = len(waveform) // self.hop_length
        padded = np.pad(np.asarray(waveform, dtype=np.float32), WINDOW_LENGTH // 2)
        windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_LENGTH)[:: self.hop_length][:num_mel_frames]
        magnitudes = np.abs(np.fft.rfft(windows * self.window, FFT_LENGTH)).astype(np.float32)
        return np.log(magnitudes @ self.mel_filters + np.float32(LOG_OFFSET)).T

    def __call__(
        self,
        audio: np.ndarray | Sequence[float] | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        padding: bool | str = True,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        device: Any = None,
    ) -> BatchFeature:
        """Extract features of one waveform or of a batch.

        Args:
            audio: one mono waveform (num_samples,), a batch (batch, num_samples), or a list of waveforms; floats.
            sampling_rate: sampling rate of `audio` in hertz; an error if it is not the extractor's.
            padding: True or "longest" pads to the longest clip, "max_length" to `max_length_seconds`.
            pad_to_multiple_of: round the number of columns up to a multiple of this.
            return_tensors: "pt", "np" or None (numpy).
            device: where torchaudio computes all clips at once; tensors ("pt") stay there. Without a device, or if
                torchaudio does not import, NumPy computes them one by one.

        Returns:
            `input_features` float32 (batch, feature_size, num_mel_frames) and `input_features_mask` int64
            (batch, num_mel_frames), 1 where there is audio.

        Raises:
            ValueError: for another sampling rate; for audio that is empty, not float, not finite, not mono, shorter
                than one audio frame or longer than `max_length_seconds`.
        """
        if sampling_rate is None:
            logger.warning_once(
                f"`sampling_rate` was not passed: the audio is taken to be at {self.sampling_rate} Hz. Pass it, so "
                "that audio at another rate is refused."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate={sampling_rate}: this feature extractor needs audio at {self.sampling_rate} Hz; "
                "resample it first."
            )
        waveforms = self._as_waveforms(audio)
        lengths = [len(waveform) // self.hop_length for waveform in waveforms]
        longest = self._padded_length(max(lengths), padding, pad_to_multiple_of)
        mask = np.zeros((len(lengths), longest), dtype=np.int64)
        for row, length in enumerate(lengths):
            mask[row, :length] = 1
        batch = None if device is None else self._log_mel_batch(waveforms, mask, device)
        if batch is None:
            batch = np.full((len(lengths), self.feature_size, longest), self.padding_value, dtype=np.float32)
            for row, waveform in enumerate(waveforms):
                batch[row, :, : lengths[row]] = self.log_mel(waveform)
        elif return_tensors != "pt":
            batch = batch.cpu().numpy()
        found = BatchFeature({"input_features": batch, "input_features_mask": mask}, tensor_type=return_tensors or "np")
        return found.to(device) if device is not None and return_tensors == "pt" else found

    def _log_mel_batch(self, waveforms: list[np.ndarray], mask: np.ndarray, device: Any) -> Any:
        """Return features `(batch, feature_size, num_mel_frames)` on a device, padded; `None` without torchaudio."""
        if (torchaudio := import_torchaudio()) is None:
            return None
        import torch

        tensors = [torch.from_numpy(np.asarray(waveform, dtype=np.float32)) for waveform in waveforms]
        magnitudes = torchaudio.functional.spectrogram(
            torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(device),
            pad=0,
            window=torch.from_numpy(self.window).to(device),
            n_fft=FFT_LENGTH,
            hop_length=self.hop_length,
            win_length=WINDOW_LENGTH,
            power=1.0,
            normalized=False,
            center=True,
            pad_mode="constant",
        )[..., : mask.sum(1).max()]
        batch = torch.log(torch.from_numpy(self.mel_filters).to(device).T @ magnitudes + LOG_OFFSET)
        batch = torch.nn.functional.pad(batch, (0, mask.shape[1] - batch.shape[-1]))
        return batch.masked_fill(torch.from_numpy(mask == 0).to(device)[:, None], self.padding_value)

    def _as_waveforms(self, audio: Any) -> list[np.ndarray]:
        is_batch = isinstance(audio, (list, tuple)) and len(audio) > 0 and np.ndim(audio[0]) > 0
        waveforms = [np.asarray(item) for item in audio] if is_batch else [np.asarray(audio)]
        if len(waveforms) == 1 and waveforms[0].ndim == 2 and not is_batch:
            waveforms = list(waveforms[0])
            if not waveforms:
                raise ValueError("audio is empty: a batch of 0 waveforms. Pass at least one.")
        for index, waveform in enumerate(waveforms):
            self._check_waveform(waveform, f"audio[{index}]" if len(waveforms) > 1 else "audio")
        return waveforms

    def _check_waveform(self, waveform: np.ndarray, name: str) -> None:
        if waveform.ndim != 1:
            raise ValueError(f"{name} has shape {waveform.shape}: expected one mono waveform (num_samples,).")
        if waveform.size == 0:
            raise ValueError(f"{name} is empty (0 samples).")
        if not np.issubdtype(waveform.dtype, np.floating):
            raise ValueError(f"{name} has dtype {waveform.dtype}: expected floats from -1 to 1; scale integers first.")
        if not np.isfinite(waveform).all():
            raise ValueError(f"{name} holds {int((~np.isfinite(waveform)).sum())} NaN or infinite samples.")
        seconds = len(waveform) / self.sampling_rate
        if len(waveform) > self.max_length_seconds * self.sampling_rate:
            raise ValueError(
                f"{name} is {seconds:.2f} s long, more than the {self.max_length_seconds:g} s that the model takes; "
                "split it into shorter windows."
            )
        if len(waveform) < self.min_num_samples:
            raise ValueError(
                f"{name} is too short: {len(waveform)} samples ({seconds:.4f} s), and one audio frame needs "
                f"{self.min_num_samples} samples ({self.min_num_samples / self.sampling_rate:.4f} s)."
            )

    def _padded_length(self, longest: int, padding: bool | str, multiple: int | None) -> int:
        if padding == "max_length":
            longest = int(self.max_length_seconds * self.sampling_rate) // self.hop_length
        elif padding not in (True, "longest"):
            raise ValueError(f'padding={padding!r}: expected True, "longest" or "max_length".')
        if multiple:
            longest = -(-longest // multiple) * multiple
        return longest


TimeProYamnetFeatureExtractor.register_for_auto_class()
