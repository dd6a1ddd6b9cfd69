"""Names that take no part in the features, as published projects use them, and names that do."""

from __future__ import annotations

import pytest

from richrep.backbones.foreign import is_beside, is_copy

# SwAV, BYOL, SimSiam, MoCo, DINO, MAE, SimMIM, mmpretrain, segmentation, optimisers and counters of wrappers
BESIDE = """
    projection_head prototypes predictor online_predictor queue queue_ptr center mask_token decoder_embed decoder
    decoder_norm decoder_pos_embed head heads fc classifier aux_classifier linear linear2 projector criterion loss_fn
    logit_scale memory_bank data_preprocessor n_averaged optimizer global_step text_projection
"""
COPIES = "ema model_ema ema_model teacher momentum_encoder target_network swa_model"
# DINOv2, timm, Swin, VPT, LoRA, GeM, adapters, and layers before the network proper
ON_THE_WAY = """
    register_tokens reg_token absolute_pos_embed prompt_embeddings prompt_proj lora pool adapter fc_norm norm_pre
    norm_head input_proj in_proj patch_proj conv_proj linear_embed dist_token rope gamma stem mean std foreign
    conv_head projected attention_pool
"""


@pytest.mark.parametrize("name", BESIDE.split())
def test_what_stands_beside_a_network(name: str) -> None:
    assert is_beside(name)


@pytest.mark.parametrize("name", COPIES.split())
def test_second_networks(name: str) -> None:
    assert is_copy(name) and not is_beside(name)


@pytest.mark.parametrize("name", ON_THE_WAY.split())
def test_what_images_may_pass(name: str) -> None:
    assert not is_beside(name) and not is_copy(name)
