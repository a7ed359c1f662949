# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Image encoders in ViT's layout: which variant the tensors are of, and the model directory's config.json.

Told by the tensors: mask_type (`a_i` a vector is Decay, a linear layer Selective, absent Lit), order (`a2_i` is S), positions
and with them the image size, all widths, the depth, the classes; the heads where there is a decay a head. Not told: the
heads of Lit, the image size without positions, and whether the features are the cls row or the mean, which must be known:
by the run's settings in the checkpoint, or by --pooling.
"""

import math

from plan import Plan
from text import label_fields

_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_BICUBIC = 3


def plan_image(checkpoint, options):
    """options: num_heads, image_size (0 = not given), pooling ("cls", "mean" or ""), labels, multi_label, drop.
    Returns a finished Plan; ValueError naming all that stands in the way."""
    plan = Plan(checkpoint.tensors)
    settings = checkpoint.settings
    for pattern in options.drop:
        plan.drop(pattern, "by --drop")
    E, channels, P, columns = plan.shape("patch_embed.proj.weight", 4)
    if P != columns:
        raise ValueError(f"patches are {P} x {columns}, not square")
    N = plan.indices(r"blocks\.(\d+)\.")
    F = plan.shape("blocks.0.mlp.fc1.weight", 2)[0]
    mask_type = "Decay" if plan.has("blocks.0.attn.a_i") else "Selective" if plan.has("blocks.0.attn.a_i.weight") else "Lit"
    order = "S" if plan.has("blocks.0.attn.a2_i") or plan.has("blocks.0.attn.a2_i.weight") else "Normal"
    if mask_type == "Lit":
        plan.tell("mask_type: no decay in the tensors, so Lit. (A ViT with softmax looks the same: it would be wrong)")
    for name, seen in (("mask_type", mask_type), ("order", order), ("pos_emb", plan.has("pos_embed"))):
        # M is 1 everywhere for Lit: its order says nothing and is not kept.
        if settings.get(name, seen) != seen and (mask_type, name) != ("Lit", "order"):
            plan.differ(name, settings[name], seen)
    H = _heads(plan, mask_type, settings, options, E)
    qkv_bias = plan.has("blocks.0.attn.qkv.bias")
    size = _image_size(plan, settings, options, P)

    plan.take_all(("patch_embed.proj.weight", (E, channels, P, P)), ("patch_embed.proj.bias", (E,)), ("cls_token", (1, 1, E)))
    if plan.has("pos_embed"):
        plan.take("pos_embed", (1, 1 + (size // P) ** 2, E))
    for n in range(N):
        block = f"blocks.{n}."
        plan.take(f"{block}attn.qkv.weight", (3 * E, E))
        if qkv_bias:
            plan.take(f"{block}attn.qkv.bias", (3 * E,))
        for path in ("a_i", "a2_i")[: 2 if order == "S" else 1]:
            if mask_type == "Decay":
                plan.take(f"{block}attn.{path}", (H,))
            if mask_type == "Selective":
                plan.take_all((f"{block}attn.{path}.weight", (H, E)), (f"{block}attn.{path}.bias", (H,)))
        for name, *shape in (("attn.proj", E, E), ("mlp.fc1", F, E), ("mlp.fc2", E, F), ("norm1", E), ("norm2", E)):
            plan.take_all((f"{block}{name}.weight", tuple(shape)), (f"{block}{name}.bias", (shape[0],)))
    plan.take_all(("norm.weight", (E,)), ("norm.bias", (E,)))
    classes = plan.shape("head.weight", 2)[0] if plan.has("head.weight") else 0
    if classes:
        plan.take_all(("head.weight", (classes, E)), ("head.bias", (classes,)))

    plan.config = {
        "architectures": ["LionVisionTransformer"],
        "model_type": "lion-vision",
        "mask_type": mask_type,
        "order": order,
        "pos_emb": plan.has("pos_embed"),
        "cls_tok": _cls_pooling(plan, settings, options),
        "mlp_ratio": F // E if F % E == 0 else F / E,
        "qkv_bias": qkv_bias,
        "layer_norm_eps": 1e-6,
        "in_chans": channels,
        "img_size": size,
        "patch_size": P,
        "embed_dim": E,
        "depth": N,
        "num_heads": H,
        "num_classes": classes,
    }
    if classes:
        plan.config |= label_fields(plan, classes, {}, options)
    plan.finish()
    return plan


def preprocessor_config(size, resize):
    """How a picture becomes pixels: its shorter side to `resize`, bicubic, the middle size x size of it, ImageNet's mean
    and deviation."""
    return {
        "do_resize": True,
        "size": {"shortest_edge": resize},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _IMAGENET_MEAN,
        "image_std": _IMAGENET_STD,
    }


def _heads(plan, mask_type, settings, options, E):
    if mask_type == "Decay":
        seen = plan.shape("blocks.0.attn.a_i", 1)[0]
    elif mask_type == "Selective":
        seen = plan.shape("blocks.0.attn.a_i.weight", 2)[0]
    else:
        seen = None
    return plan.heads("num_heads", options.num_heads or settings.get("num_heads"), seen, E)


def _image_size(plan, settings, options, P):
    said = options.image_size or settings.get("input_size")
    if plan.has("pos_embed"):
        rows = plan.shape("pos_embed", 3)[1]
        grid = math.isqrt(rows - 1)
        if grid * grid != rows - 1:
            raise ValueError(f"pos_embed has {rows} rows, which is not a cls row and a square grid of patches")
        if said and said != grid * P:
            plan.differ("the image size", said, grid * P)
        return grid * P
    if not said:
        said = 224
        plan.tell("img_size: 224 taken, as published; --image_size for others (any multiple of the patch is served)")
    if said % P:
        raise ValueError(f"the image size {said} is no multiple of the patch {P}")
    return said


def _cls_pooling(plan, settings, options):
    if options.pooling:
        return options.pooling == "cls"
    if isinstance(settings.get("cls_tok"), bool):
        return settings["cls_tok"]
    plan.problems.append("untold    whether the features are the cls row or the mean over all rows: give --pooling=cls or --pooling=mean")
    return False
