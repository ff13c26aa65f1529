"""The model families whose checkpoints can be imported, as tables.

To add a family, define a Family in one of these modules and list it here.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.families.encoder_decoders import BART, MBART, MT5, T5, WHISPER
from polyhead_models.checkpoint.families.encoders import (
    ALBERT,
    BERT,
    DISTILBERT,
    ELECTRA,
    ESM,
    MODERNBERT,
    MPNET,
    ROBERTA,
)
from polyhead_models.checkpoint.families.gemma import GEMMA, GEMMA2, GEMMA3, GPT_OSS
from polyhead_models.checkpoint.families.gpt import BLOOM, FALCON, GPT2, GPT_NEOX, GPTJ, MPT, OPT
from polyhead_models.checkpoint.families.llama import (
    COHERE,
    GRANITE,
    LLAMA,
    MISTRAL,
    PHI,
    PHI3,
    QWEN2,
    QWEN3,
    STABLELM,
    STARCODER2,
)
from polyhead_models.checkpoint.families.vision import (
    CLIP,
    CLIP_TEXT,
    CLIP_VISION,
    DEIT,
    DINOV2,
    DINOV2_WITH_REGISTERS,
    SIGLIP,
    SIGLIP_TEXT,
    SIGLIP_VISION,
    VIT,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyhead_models.checkpoint.families.family import Family

__all__ = ["FAMILIES"]

_ALL = (
    *(BERT, ELECTRA, ROBERTA, DISTILBERT, MODERNBERT, MPNET, ALBERT, ESM),
    *(VIT, DEIT, DINOV2, DINOV2_WITH_REGISTERS),
    *(CLIP, CLIP_TEXT, CLIP_VISION, SIGLIP, SIGLIP_TEXT, SIGLIP_VISION),
    *(GPT2, OPT, GPTJ, GPT_NEOX, BLOOM, MPT, FALCON),
    *(LLAMA, MISTRAL, QWEN2, QWEN3, PHI, PHI3, GRANITE, COHERE, STABLELM, STARCODER2),
    *(GEMMA, GEMMA2, GEMMA3, GPT_OSS),
    *(T5, MT5, BART, MBART, WHISPER),
)
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {model_type: family for family in _ALL for model_type in family.model_types}
)
"""All families by ``model_type``."""
