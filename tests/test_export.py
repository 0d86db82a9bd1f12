"""Encoders as graphs: whatever the number of clips and their lengths, they compute what the model does."""

import numpy as np
import pytest
import torch

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM

TEXT = {
    "model_type": "qwen2", "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 32,
}  # fmt: skip
WHISPER = {
    "num_mel_bins": 64, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 32,
    "max_source_positions": 60,
}  # fmt: skip
YAMNET = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
OMNI_TEXT = TEXT | {
    "model_type": "qwen2_5_omni_text",
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
}
ENCODERS = {
    "audioflamingo3_encoder": (WHISPER, TEXT, "mlp"),
    "qwen2_5_omni_audio_encoder": (WHISPER | {"output_dim": 32, "n_window": 15}, OMNI_TEXT, "none"),
    "qwen2_audio_encoder": (WHISPER, TEXT, "linear"),
    "timepro_yamnet": (YAMNET, TEXT, "linear"),
}


class Encoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.tower, self.projector = model.audio_tower, model.multi_modal_projector

    def forward(self, input_features, input_features_mask):
        return self.projector(self.tower(input_features, input_features_mask).last_hidden_state)


def make_batch(num_mel_frames, lengths):
    mask = (torch.arange(num_mel_frames) < torch.tensor(lengths)[:, None]).long()
    return torch.randn(len(lengths), 64, num_mel_frames), mask


def export(kind):
    """Return the model and its encoder as an exported program."""
    torch.manual_seed(0)
    audio, text, projector = ENCODERS[kind]
    config = TimeProAudioConfig(
        audio_config=audio | {"model_type": kind}, text_config=dict(text), projector=projector, audio_token_id=0
    )
    model = TimeProAudioForCausalLM(config).eval().requires_grad_(False).model
    clips, frames = torch.export.Dim("clips", max=64), torch.export.Dim("frames", min=2, max=14)
    shapes = {0: clips, 2: 8 * frames}, {0: clips, 1: 8 * frames}
    return model, torch.export.export(Encoder(model), make_batch(96, [96, 60]), dynamic_shapes=shapes, strict=False)


def assert_equal_where_real(model, run):
    for num_mel_frames, lengths in ((96, [96, 60]), (64, [64, 50, 17]), (112, [112])):
        batch = make_batch(num_mel_frames, lengths)
        expected, found = Encoder(model)(*batch), run(*batch)
        for row, length in enumerate(model.get_audio_lengths(torch.tensor(lengths)).tolist()):
            torch.testing.assert_close(found[row, :length], expected[row, :length], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "qwen2_audio_encoder" else pytest.param(kind, marks=pytest.mark.slow) for kind in ENCODERS],
)
def test_an_exported_encoder_takes_clips_of_any_number_and_length(kind):
    model, program = export(kind)
    assert_equal_where_real(model, program.module())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENCODERS)
def test_onnxruntime_computes_what_the_model_does(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -e '.[export]'")
    model, program = export(kind)
    path = str(tmp_path / "encoder.onnx")
    torch.onnx.export(program, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]

    def run(*batch):
        return torch.from_numpy(np.asarray(session.run(None, dict(zip(names, (x.numpy() for x in batch))))[0]))

    assert_equal_where_real(model, run)
