"""Healthy: networks of timm, from many families, small and from scratch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gallery.case import Program, healthy
from gallery.data_unusual import accuracy, gratings, split
from nbutils.data.task import Task


def _program(model: nn.Module, size: int = 32, **settings: Any) -> Program:
    train, val = split(160, *gratings(208, size, channels=3))
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 5, "batch_size": 16, **settings})


def _make(name: str, **options: Any) -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, **options)


@healthy("images", "a vision transformer of timm")
def timm_vit() -> Program:
    return _program(_make("test_vit", img_size=32), lr=5e-4, epochs=8)


@healthy("images", "a vision transformer of timm, class token frozen with the stem")
def timm_vit_with_frozen_stem() -> Program:
    model = _make("test_vit", img_size=32, drop_path_rate=0.2)
    model.patch_embed.requires_grad_(False)
    model.cls_token.requires_grad_(False)
    return _program(model, lr=5e-4, epochs=8)


@healthy("images", "a ResNet of timm")
def timm_resnet() -> Program:
    return _program(_make("test_resnet"), 48)


@healthy("images", "a ResNet of timm whose branches end in zero (the default)")
def timm_resnet_zero_init_last() -> Program:
    model = _make("resnet18", channels=(16, 24, 32, 48), zero_init_last=True)
    return _program(model)


@healthy("images", "a ConvNeXt of timm with layer scales of 1e-6")
def timm_convnext() -> Program:
    return _program(_make("test_convnext"), epochs=8)


@healthy("images", "an EfficientNet of timm, stochastic depth in it")
def timm_efficientnet() -> Program:
    model = _make("test_efficientnet", drop_rate=0.2, drop_path_rate=0.1)
    return _program(model, lr=3e-3)


@healthy("images", "a MobileNet v3 of timm from a short plan of its own")
def timm_mobilenet() -> Program:
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.mobilenetv3 import MobileNetV3

    torch.manual_seed(0)
    plan = [["ds_r1_k3_s1_e1_c16_nre"], ["ir_r2_k3_s2_e3_c24_se0.25"]]
    blocks = decode_arch_def([*plan, ["cn_r1_k1_s1_c72"]])
    model = MobileNetV3(blocks, 4, num_features=128, act_layer=nn.Hardswish)
    return _program(model, epochs=5)


@healthy("images", "a Swin transformer of timm, cut down")
def timm_swin() -> Program:
    model = _make(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        patch_size=2,
        window_size=4,
        embed_dim=24,
        depths=(1, 1),
        num_heads=(2, 4),
    )
    return _program(model, epochs=8)


@healthy("images", "an MLP mixer of timm")
def timm_mixer() -> Program:
    from timm.models.mlp_mixer import MlpMixer

    torch.manual_seed(0)
    model = MlpMixer(4, 32, patch_size=4, embed_dim=64, num_blocks=2)
    return _program(model, epochs=12)


@healthy("images", "EVA-02 of timm: rotary places, SwiGLU, cut down")
def timm_eva() -> Program:
    model = _make(
        "eva02_tiny_patch14_224",
        img_size=32,
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
    )
    return _program(model, epochs=12)


@healthy("images", "CaiT of timm: layer scales of 1e-5, class attention")
def timm_cait() -> Program:
    model = _make(
        "cait_xxs24_224",
        img_size=32,
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
    )
    return _program(model, epochs=12)


@healthy("images", "a distilled DeiT of timm: two heads, whose mean is the answer")
def timm_distilled() -> Program:
    model = _make(
        "deit_tiny_distilled_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
    )
    return _program(model, epochs=12)


@healthy("images", "a DenseNet of timm, channels last, one input channel")
def timm_densenet() -> Program:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(
        "densenet121",
        num_classes=4,
        in_chans=1,
        growth_rate=8,
        block_config=(2, 2, 2),
    )
    train, val = split(160, *gratings(208, 32))
    task = Task(model, nn.CrossEntropyLoss(), train, val, metrics={"acc": accuracy})
    return Program(task, {"epochs": 5, "batch_size": 16, "channels_last": True})


@healthy("images", "a network of timm without normalisation (NFNet), unclipped")
def timm_nfnet() -> Program:
    return _program(_make("test_nfnet"), clip_norm=None, lr=3e-4)


@healthy("images", "features of a timm network and a head of one's own")
def timm_features() -> Program:
    import timm

    torch.manual_seed(0)
    body = timm.create_model("test_resnet", num_classes=0, in_chans=3)
    model = nn.Sequential(body, nn.Dropout(0.3), nn.Linear(body.num_features, 4))
    return _program(model, 48, lr_groups={"0.*": 0.1}, lr=5e-3)
