"""Settings of the test suite, made before anything else is imported: offline, and nothing written outside tmp."""

import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# Remote code of checkpoints is copied to the cache before it is imported.
_CACHE = tempfile.mkdtemp(prefix="timepro-tests-")
os.environ["HF_HOME"] = _CACHE
os.environ["HF_MODULES_CACHE"] = os.path.join(_CACHE, "modules")
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("timepro", database=None, deadline=None)
settings.load_profile("timepro")


def pytest_unconfigure(config):
    shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def scripted_checkpoint(tmp_path_factory):
    """Return a function that writes a tiny, complete checkpoint whose every answer is a given text, and its folder.

    Its layers add nothing, so the last token alone decides the next one. The tokens of the text must differ.
    """
    import torch

    from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
    from processing import TimeGrid, TimeProAudioProcessor, TimeProYamnetFeatureExtractor
    from recipes.checkpoint import save_checkpoint
    from recipes.convert import add_time_tokens
    from recipes.small_language import language_config, train_tokenizer

    folders = {}

    def write(answer):
        if answer in folders:
            return folders[answer]
        tokenizer = train_tokenizer(num_documents=500)
        text_config = language_config(len(tokenizer), tokenizer)
        text_config.hidden_size, text_config.intermediate_size, text_config.num_hidden_layers = 32, 32, 1
        text_config.num_attention_heads, text_config.num_key_value_heads = 2, 1
        text_config.layer_types = ["full_attention"]
        config = TimeProAudioConfig(
            audio_config={"model_type": "timepro_yamnet", "hidden_size": 16, "num_hidden_layers": 1,
                          "num_attention_heads": 2, "intermediate_size": 16},
            text_config=text_config,
            audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
            frame_rate=12.5,
            time_prompt=False,
        )  # fmt: skip
        torch.manual_seed(0)
        model = TimeProAudioForCausalLM(config).eval()
        extractor = TimeProYamnetFeatureExtractor()
        processor = TimeProAudioProcessor(extractor, tokenizer, time_prompt=False, frame_rate=12.5)
        grid = TimeGrid(frame_rate=12.5, time_step=0.08, max_time=30.0)
        processor = add_time_tokens(model, processor, grid, answer_format="ticks")
        prompt = processor.apply_chat_template([{"role": "user", "content": "?"}], add_generation_prompt=True)
        script = [processor.tokenizer(prompt)["input_ids"][-1]]
        script += [*processor.tokenizer(answer)["input_ids"], processor.tokenizer.eos_token_id]
        assert len(set(script)) == len(script) <= 32, "every token of the answer must occur once"
        with torch.no_grad():
            for layer in model.model.language_model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
            embeddings.zero_()
            head.zero_()
            for place, (token, following) in enumerate(zip(script, script[1:], strict=False)):
                embeddings[token, place] = 1.0
                head[following, place] = 1.0
        folders[answer] = tmp_path_factory.mktemp("checkpoint")
        save_checkpoint(model, processor, folders[answer])
        return folders[answer]

    return write
