"""The model card of a converted backbone, which states that it has not been trained."""

import re
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

# Licence metadata to copy from the backbone's card.
LICENCE_FIELDS = ("license", "license_name", "license_link")
MEAN = "the mean of the embeddings of its number's tokens"
PLACE = "a mean of the embeddings of its number's tokens, weighted by decimal place"
CENTRED = ", less what all ticks have in common, scaled to the vocabulary's spread"
INITS = {
    "mean": MEAN, "place": PLACE, "centred_mean": MEAN + CENTRED, "centred_place": PLACE + CENTRED,
    "random": "noise of the vocabulary's spread (seed {seed})",
}  # fmt: skip
TEXT = """# {title}

{base} with a time prompt for the audio: {num_ticks} tick tokens, `{first}` to `{last}`, one every {step:g} s, {placed}.

**Not trained yet.** The weights are those of {base}, bit for bit; each tick starts as {init}. Until it is
fine-tuned the model does not know what ticks are for, and no quality has been measured. With the time prompt off
(`processor.time_prompt = False`) it answers as {base} does.

| | |
|---|---|
| parameters | {parameters:,} |
| audio frames | {rate:g} a second |
| longest clip | {max_time:g} s |
| times in answers | {answers} |
| type of weights | {dtype} |

```python
from transformers import AutoModelForCausalLM, AutoProcessor

model = AutoModelForCausalLM.from_pretrained("{folder}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{folder}", trust_remote_code=True)
```

The method is that of *Towards Fine-grained Temporal Perception: Post-Training Large Audio-Language Models with
Audio-Side Time Prompt* (arXiv 2604.13715). Made by `timepro convert`.
"""


def base_model_id(source) -> str:
    """Return the Hub id of a backbone, even if it is cached; otherwise the name of its folder."""
    cached = re.search(r"models--([^/]+?)--([^/]+)", str(Path(source.name).absolute()))
    if cached:
        return f"{cached[1]}/{cached[2]}"
    return Path(source.name).resolve().name if Path(source.name).is_dir() else source.name


def licence_of(folder) -> dict[str, str]:
    """Return the licence metadata of a folder's own card."""
    path = Path(folder) / "README.md"
    if not path.is_file():
        return {}
    try:
        data = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
    except ValueError:
        return {}
    return {name: data[name] for name in LICENCE_FIELDS if isinstance(data.get(name), str)}


def conversion_card(source, config, num_parameters: int, name: str, seed: int = 0) -> str:
    """Return the README.md of a conversion.

    Args:
        source: the [`~recipes.conversion.backbone_files.BackboneFiles`] that was converted.
        config: the configuration of the result.
        num_parameters: number of parameters of the result.
        name: name of its folder.
        seed: seed of random tick embeddings.
    """
    base = base_model_id(source)
    data = ModelCardData(
        base_model=base,
        library_name="transformers",
        pipeline_tag="audio-text-to-text",
        tags=["temporal-audio-grounding", "sound-event-detection", "audio", "custom_code", "timepro"],
        **licence_of(source.folder),
    )
    ticks = source.processor.tokenizer.convert_ids_to_tokens([config.time_token_ids[0], config.time_token_ids[-1]])
    every = "each" if config.time_stride == 1 else f"every {config.time_stride}th"
    text = TEXT.format(
        title=f"TimePro on {base}",
        base=base,
        num_ticks=config.num_time_tokens,
        first=ticks[0],
        last=ticks[1],
        step=config.time_step,
        placed=f"{every} before the audio frame that starts then" if config.time_prompt else "for answers alone",
        init=INITS[config.time_init].format(seed=seed),
        parameters=num_parameters,
        rate=config.frame_rate,
        max_time=config.max_time,
        answers="decimal numbers" if config.answer_format == "digits" else "ticks",
        dtype=str(config.dtype).removeprefix("torch."),
        folder=name,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"
