"""The forms in which compare_whole.py saves a model: its classes, and the tensors of its files."""

from functools import cache

import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers.models.auto import modeling_auto

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_WITHOUT_AUTO_CLASS = {
    "clip_text_model": ("CLIPTextModelWithProjection",),
    "clip_vision_model": ("CLIPVisionModelWithProjection",),
    "siglip_text_model": ("SiglipTextModel",),
    "t5": ("T5EncoderModel",),
    "mt5": ("MT5EncoderModel",),
}
_FORMER_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


@cache
def classes_of(model_type):
    """List transformers' classes of a model type: without a head, and with each head."""
    names = {}
    for mapping, content in sorted(vars(modeling_auto).items()):
        if mapping.startswith("MODEL_") and mapping.endswith("MAPPING_NAMES"):
            found = content.get(model_type, ())
            names |= dict.fromkeys([found] if isinstance(found, str) else found)
    names |= dict.fromkeys(_WITHOUT_AUTO_CLASS.get(model_type, ()))
    return [getattr(hf, name) for name in names if hasattr(hf, name)]


def rewrite(folder, number):
    """Write the tensors of a folder as other versions of transformers do, by the case's number."""
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        changed = FORMS[number % len(FORMS)](tensors)
        if changed.keys() != tensors.keys() and file.name == "model.safetensors":
            save_file({name: tensor.contiguous() for name, tensor in changed.items()}, file)


def _as_saved(tensors):
    return tensors


def _with_former_names(tensors):
    """Name norms as the first files do."""
    renamed = {}
    for name, tensor in tensors.items():
        new = next((new for new in _FORMER_NAMES if name.endswith(new)), "")
        renamed[name.removesuffix(new) + _FORMER_NAMES.get(new, "")] = tensor
    return renamed


def _with_buffers(tensors):
    """Add the buffers that former versions saved."""
    more = {}
    for name in tensors:
        module, _, last = name.rpartition(".weight")
        if last == "" and "position_embedding" in module:
            more[f"{module.rpartition('.')[0]}.position_ids"] = torch.arange(9).reshape(1, 9)
        if module.endswith(("attn.q_proj", "attention.query_key_value")):
            attention = module.rpartition(".")[0]
            more[f"{attention}.rotary_emb.inv_freq"] = torch.rand(4)
            more[f"{attention}.bias"] = torch.ones(1, 1, 9, 9, dtype=torch.bool)
            more[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        if module.endswith("attn.c_attn"):
            attention = module.rpartition(".")[0]
            more[f"{attention}.bias"] = torch.ones(1, 1, 9, 9, dtype=torch.bool)
            more[f"{attention}.masked_bias"] = torch.tensor(-1e4)
    return tensors | more


def _with_duplicates(tensors):
    """Add the last layer of tied words, which older files hold a second time."""
    for name, tensor in tensors.items():
        if name.endswith(("wte.weight", "embed_tokens.weight", "word_embeddings.weight")):
            return {"lm_head.weight": tensor.clone()} | tensors
    return tensors


FORMS = (_as_saved, _with_former_names, _as_saved, _with_buffers, _with_duplicates)
