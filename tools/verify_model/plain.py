# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""LION encoders in plain numpy, straight from the mathematics: the whole mask is built, in float64, one row at a time.

It shares no code with the server or with the training tools; only the model directory's format. Work and memory are
O(L²), so it is for rows of some hundred tokens.

    model = load("demo/model")
    outputs = model.run(model.random_row(17, rng))     # {"hidden": (L, E), "vector": (W,), "logits": (classes,)}

With a precision below float64 every result of an operation is rounded to it, weights included, as a plain eager
implementation in that type would; decays and masks stay float32 or better, as the server has them. Linear layers of
float32 are summed in float32 too, which is most of what that type costs in a wide model. The difference from float64
then is what the type itself costs: the yardstick of verify.py.

Letters: L tokens, H heads, D width of a head, E = H·D. Per head, with decays a_t in (0, 1]:

    M_ij = Π_{t=j}^{i-1} a_t for j < i,    Π_{t=i+1}^{j} a_t for j > i,    1 for j = i
    text    y_i = Σ_j (q_i·k_j / √D) M_ij v_j
    images  y_i = Σ_j S_ij v_j / (Σ_j S_ij + 1e-6),    S_ij = φ(q_i)·φ(k_j) / √D · M_ij
"""

import json
import math
import os

import numpy as np
from model_directory.weights import bfloat16_bits, read_model_weights, read_safetensors

PRECISIONS = ("float64", "float32", "bfloat16", "float16")
# Distance of 1 from the next number above it.
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
_ARCHITECTURES = {"linear_attention": "lion-lit", "nova": "lion-d", "nova-inputdep": "lion-s"}


def load(directory, precision="float64"):
    """The model of a directory. ValueError where config.json is of no LION encoder."""
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    kinds = {"bert": TextModel, "lion-vision": ImageModel}
    if config.get("model_type", "bert") not in kinds:
        raise ValueError(f"{directory}/config.json: model_type is '{config['model_type']}', not one of {', '.join(kinds)}")
    return kinds[config.get("model_type", "bert")](directory, config, precision)


def sigmoid(z):
    return np.where(z >= 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))


def decay_mask(log_a):
    """M (H, L, L) from the decays' logarithms (H, L)."""
    before = np.concatenate([np.zeros_like(log_a[:, :1]), np.cumsum(log_a, axis=1)], axis=1)  # (H, L + 1): Σ_{t<i}
    starts, ends = before[:, :-1], before[:, 1:]
    forward = starts[:, :, None] - starts[:, None, :]  # [i, j] = Σ_{t=j}^{i-1}, for j < i
    backward = ends[:, None, :] - ends[:, :, None]  # [i, j] = Σ_{t=i+1}^{j}, for j > i
    L = log_a.shape[1]
    below = np.arange(L)[:, None] > np.arange(L)[None, :]
    return np.exp(np.where(below, forward, backward))


class _Model:
    def __init__(self, directory, config, precision):
        self.directory, self.config, self.precision = directory, config, precision
        self.weights = {name: self.round(t.values()) for name, t in read_model_weights(directory).items()}

    def round(self, x):
        """x, rounded to the precision and held as float64."""
        if self.precision == "float64":
            return x
        if self.precision == "bfloat16":
            return (bfloat16_bits(x).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return x.astype(self.precision).astype(np.float64)

    def linear(self, x, name):
        weight = self.weights[f"{name}.weight"]
        y = x.astype(np.float32) @ weight.astype(np.float32).T if self.precision == "float32" else x @ weight.T
        bias = self.weights.get(f"{name}.bias")
        return self.round(y if bias is None else y + bias)

    def norm(self, x, name, eps):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return self.round(scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"])

    def gelu(self, x):
        return self.round(x * (1 + _erf(x / math.sqrt(2))) / 2)

    def heads(self, x):
        """(L, E) as (H, L, D)."""
        return x.reshape(len(x), self.num_heads, -1).transpose(1, 0, 2)

    def joined(self, y):
        return y.transpose(1, 0, 2).reshape(y.shape[1], -1)

    def add(self, x, z):
        return self.round(x + z)

    def pooled(self, hidden, cls):
        """The model's own vector of the last hidden states: cls tells what it is without a pipeline beside it."""
        steps = []
        if os.path.exists(f"{self.directory}/modules.json"):
            with open(f"{self.directory}/modules.json", encoding="utf-8") as f:
                steps = [(m["type"].rsplit(".", 1)[-1], os.path.join(self.directory, m["path"])) for m in json.load(f)]
        for kind, at in steps:
            if kind == "Pooling":
                with open(f"{at}/config.json", encoding="utf-8") as f:
                    cls = json.load(f)["pooling_mode_cls_token"]
        vector = hidden[0] if cls else hidden.mean(0)
        for kind, at in steps:
            if kind == "Dense":
                with open(f"{at}/config.json", encoding="utf-8") as f:
                    activation = json.load(f).get("activation_function", "Tanh")
                dense = {k: t.values() for k, t in read_safetensors(f"{at}/model.safetensors").items()}
                vector = dense["linear.weight"] @ vector + dense.get("linear.bias", 0)
                vector = np.tanh(vector) if activation.endswith("Tanh") else vector
            if kind == "Normalize":
                vector = vector / np.linalg.norm(vector)
        return vector


class TextModel(_Model):
    """BERT's layout, post-norm. A row is (ids, type_ids)."""

    kind = "text"

    def __init__(self, directory, config, precision):
        super().__init__(directory, config, precision)
        self.variant = _ARCHITECTURES.get(config["arch_type"], config["arch_type"])
        self.num_heads = config["num_attention_heads"]
        self.absolute = config.get("position_embedding_type", "absolute") == "absolute"
        self.longest = config["max_position_embeddings"] if self.absolute else None
        self.layer_norm_after = config.get("layer_norm_after", self.variant == "lion-lit")
        self.classifies = "classifier.weight" in self.weights

    def random_row(self, length, rng):
        types = (np.arange(length) >= length - length // 3).astype(int) % self.config.get("type_vocab_size", 2)
        return rng.integers(0, self.config["vocab_size"], length), types

    def log_decay(self, x, attention):
        """(H, L) of the layer whose input is x (L, E)."""
        if self.variant == "lion-d":
            alpha = self.weights[f"{attention}ai"]
            return np.repeat(-np.logaddexp(0, -alpha)[:, None], len(x), axis=1)
        if self.variant == "lion-s":
            z = x @ self.weights[f"{attention}Wa_i.weight"].T + self.weights[f"{attention}Wa_i.bias"]
            return np.minimum(np.log(sigmoid(-z) + 1e-7), 0).T
        return np.zeros((self.num_heads, len(x)))

    def attention(self, x, name):
        q, k, v = (self.heads(self.linear(x, name + part)) for part in ("query", "key", "value"))
        scores = self.round(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
        weighted = self.round(scores * decay_mask(self.log_decay(x, name)))
        return self.joined(self.round(weighted @ v))

    def run(self, row):
        ids, types = row
        w, eps = self.weights, self.config.get("layer_norm_eps", 1e-12)
        x = w["bert.embeddings.word_embeddings.weight"][ids] + w["bert.embeddings.token_type_embeddings.weight"][types]
        if self.absolute:
            x = x + w["bert.embeddings.position_embeddings.weight"][: len(ids)]
        x = self.norm(self.round(x), "bert.embeddings.LayerNorm", eps)
        for n in range(self.config["num_hidden_layers"]):
            layer = f"bert.encoder.layer.{n}."
            z = self.attention(x, f"{layer}attention.self.")
            if self.layer_norm_after:
                z = self.norm(z, f"{layer}attention.self.layer_norm", 1e-5)
            z = self.add(x, self.linear(z, f"{layer}attention.output.dense"))
            x = self.norm(z, f"{layer}attention.output.LayerNorm", eps)
            z = self.linear(self.gelu(self.linear(x, f"{layer}intermediate.dense")), f"{layer}output.dense")
            x = self.norm(self.add(x, z), f"{layer}output.LayerNorm", eps)
        outputs = {"hidden": x, "vector": self.pooled(x, cls=False)}
        if self.classifies:
            outputs["logits"] = self.linear(np.tanh(self.linear(x[:1], "bert.pooler.dense")), "classifier")[0]
        return outputs


class ImageModel(_Model):
    """ViT's layout, pre-norm. A row is pixels (3, S, S), normalised; L = 1 + (S / patch)²."""

    kind = "image"

    def __init__(self, directory, config, precision):
        super().__init__(directory, config, precision)
        self.num_heads = config["num_heads"]
        self.mask_type = config["mask_type"].lower()
        self.patch = config["patch_size"]
        self.size = config["img_size"]
        self.absolute = config["pos_emb"]
        self.classifies = config.get("num_classes", 0) != 0 and "head.weight" in self.weights

    def random_row(self, size, rng):
        return rng.standard_normal((self.config["in_chans"], size, size)).astype(np.float32)

    def paths(self, grid):
        """The orders in which the masks walk through the rows: arrays of L row numbers, the cls row first."""
        patches = np.arange(grid * grid).reshape(grid, grid)
        if self.config["order"] != "S":
            return [np.concatenate([[0], 1 + patches.ravel()])]
        snakes = []
        for lines in (patches, patches.T):
            turned = [line if n % 2 == 0 else line[::-1] for n, line in enumerate(lines)]
            snakes.append(np.concatenate([[0], 1 + np.concatenate(turned)]))
        return snakes

    def mask(self, u, name, grid):
        """M (H, L, L) for the attention's input u (L, E): the mean over the paths."""
        L = len(u)
        if self.mask_type == "lit":
            return np.ones((self.num_heads, L, L))
        masks = []
        for path, gate in zip(self.paths(grid), (f"{name}a_i", f"{name}a2_i")):
            if self.mask_type == "decay":
                log_a = np.repeat(-np.logaddexp(0, -self.weights[gate])[:, None], L, axis=1)
            else:
                log_a = -np.logaddexp(0, u @ self.weights[f"{gate}.weight"].T + self.weights[f"{gate}.bias"]).T
                log_a[:, 0] = 0
            walked = decay_mask(log_a[:, path])
            back = np.argsort(path)
            masks.append(walked[:, back][:, :, back])
        return sum(masks) / len(masks)

    def feature(self, x):
        if self.mask_type == "lit":
            return self.round(np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))))
        u = x * sigmoid(x) + 0.5
        return self.round(u / np.linalg.norm(u, axis=-1, keepdims=True))

    def attention(self, u, name, grid):
        q, k, v = (self.heads(part) for part in np.split(self.linear(u, f"{name}qkv"), 3, axis=-1))
        scores = self.round(self.feature(q) @ self.feature(k).transpose(0, 2, 1) * q.shape[-1] ** -0.5)
        weighted = self.round(scores * self.mask(u, name, grid))
        y = weighted @ v / (weighted.sum(-1, keepdims=True) + 1e-6)
        return self.linear(self.joined(self.round(y)), f"{name}proj")

    def run(self, row):
        w, P = self.weights, self.patch
        grid = row.shape[1] // P
        cut = self.round(row.astype(np.float64)).reshape(-1, grid, P, grid, P).transpose(1, 3, 0, 2, 4)
        kernel = w["patch_embed.proj.weight"]
        patches = cut.reshape(grid * grid, -1) @ kernel.reshape(len(kernel), -1).T + w["patch_embed.proj.bias"]
        x = np.concatenate([w["cls_token"][0], self.round(patches)])
        if self.absolute:
            x = self.add(x, w["pos_embed"][0])
        for n in range(self.config["depth"]):
            block = f"blocks.{n}."
            x = self.add(x, self.attention(self.norm(x, f"{block}norm1", 1e-6), f"{block}attn.", grid))
            z = self.gelu(self.linear(self.norm(x, f"{block}norm2", 1e-6), f"{block}mlp.fc1"))
            x = self.add(x, self.linear(z, f"{block}mlp.fc2"))
        x = self.norm(x, "norm", 1e-6)
        features = x[0] if self.config["cls_tok"] else x.mean(0)
        outputs = {"hidden": x, "vector": self.pooled(x, cls=self.config["cls_tok"])}
        if self.classifies:
            outputs["logits"] = self.linear(self.round(features)[None], "head")[0]
        return outputs


_erf = np.vectorize(math.erf, otypes=[np.float64])
