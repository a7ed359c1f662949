# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""LION text encoders in plain torch, for training: padded batches, autograd, a parallel and a chunked form.

The server computes the same from the same model directory (read_model, write_model); nothing here is used to serve.

Letters: B sequences, L tokens of the longest one, H heads, D width of a head, E = H·D, C tokens of a chunk, N chunks.
Per head, with decays a_t in (0, 1]:

    y_i = Σ_j (q_i · k_j / √D) · M_ij · v_j
    M_ij = Π_{t=j}^{i-1} a_t for j < i,    Π_{t=i+1}^{j} a_t for j > i,    1 for j = i

Sequences are padded on the right. A padding key is zero and a padding decay is 1, so neither reaches a real row.
"""

import json
import os

import numpy as np
import torch
import torch.nn.functional as F
from model_directory import layout
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

CHUNK = 128  # C of the chunked form
PARALLEL_MAX = 384  # sequences up to this length take the parallel form


def log_decay(z):
    """log(1 - sigmoid(z) + 1e-7), at most 0, without cancellation at either end. z and result are float32."""
    open_gate = torch.log1p(1e-7 - torch.sigmoid(z.clamp(max=0)))
    shut_gate = torch.log(torch.sigmoid(-z.clamp(min=0)) + 1e-7)
    return torch.where(z < 0, open_gate, shut_gate).clamp(max=0)


def parallel_attention(q, k, v, log_a):
    """q, k, v (..., L, D), log_a (..., L) float32; returns (..., L, D)."""
    after = log_a.cumsum(-1)  # Σ_{t<=i} log a_t
    before = after - log_a  # Σ_{t<i} log a_t
    # For j < i the walk is before_i - before_j <= 0 <= after_j - after_i, for j > i the other way round: the smaller
    # one is the right one.
    walk = torch.minimum(before[..., :, None] - before[..., None, :], after[..., None, :] - after[..., :, None])
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (scores * walk.exp()) @ v


def chunked_attention(q, k, v, log_a, chunk=CHUNK):
    """The same with state passing between chunks: work grows with L, not L². L must be a multiple of `chunk`."""
    *lead, L, D = q.shape
    q, k, v = (t.reshape(*lead, L // chunk, chunk, D) for t in (q, k, v))
    log_a = log_a.reshape(*lead, L // chunk, chunk)
    y = parallel_attention(q, k, v, log_a)

    after = log_a.cumsum(-1)
    before = after - log_a
    whole = after[..., -1:]  # log of the product over a chunk, (..., N, 1)
    # What each chunk hands on: forward keys decay to the chunk's end, backward keys to its start.
    forward = (k * (whole - before).exp()[..., None]).transpose(-1, -2) @ v  # (..., N, D, D)
    backward = (k * after.exp()[..., None]).transpose(-1, -2) @ v
    # weight[c, n] = product over the chunks strictly between n and c.
    to_end = whole[..., 0].cumsum(-1)
    to_start = to_end - whole[..., 0]
    gap = to_start[..., :, None] - to_end[..., None, :]
    earlier = torch.ones(gap.shape[-2:], dtype=torch.bool, device=gap.device).tril(-1)
    weight = gap.masked_fill(~earlier, -torch.inf).exp()
    state_f = (weight @ forward.flatten(-2)).unflatten(-1, (D, D))
    state_b = (weight.transpose(-1, -2) @ backward.flatten(-2)).unflatten(-1, (D, D))
    scale = D**-0.5
    y = (
        y
        + (q * (before.exp() * scale)[..., None]) @ state_f
        + (q * ((whole - after).exp() * scale)[..., None]) @ state_b
    )
    return y.reshape(*lead, L, D)


class SelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        E, self.H, self.variant = config["hidden_size"], config["num_attention_heads"], config["arch_type"]
        self.query, self.key, self.value = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)
        if self.variant == "lion-s":
            self.Wa_i = nn.Linear(E, self.H)
        if self.variant == "lion-d":
            self.ai = nn.Parameter(torch.zeros(self.H))
        if config["layer_norm_after"]:
            self.layer_norm = nn.LayerNorm(E, eps=1e-5)

    def log_decay(self, x):
        """log a_t (B, H, L) or, where it is the same for every token, (1, H, 1); float32."""
        with torch.autocast(x.device.type, enabled=False):
            if self.variant == "lion-s":
                return log_decay(self.Wa_i(x.float())).transpose(1, 2)
            return F.logsigmoid(self.ai.float())[None, :, None]

    def forward(self, x, mask):
        B, L, E = x.shape
        q, k, v = (f(x).view(B, L, self.H, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        k = k * mask[:, None, :, None]
        if self.variant == "lion-lit":  # M is 1: one state a sequence, whatever its length
            y = q @ (k.transpose(-1, -2) @ v) * q.shape[-1] ** -0.5
        else:
            log_a = self.log_decay(x) * mask[:, None]
            if L <= PARALLEL_MAX:
                y = parallel_attention(q, k, v, log_a)
            else:
                pad = -L % CHUNK
                q, k, v = (F.pad(t, (0, 0, 0, pad)) for t in (q, k, v))
                y = chunked_attention(q, k, v, F.pad(log_a, (0, pad)))[:, :, :L]
        y = y.transpose(1, 2).reshape(B, L, E)
        return self.layer_norm(y) if hasattr(self, "layer_norm") else y


class Residual(nn.Module):
    """LayerNorm(x + dense(z)): closes both halves of a layer."""

    def __init__(self, width, config):
        super().__init__()
        self.dense = nn.Linear(width, config["hidden_size"])
        self.LayerNorm = nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(self, x, z):
        return self.LayerNorm(x + self.dropout(self.dense(z)))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        E, F_ = config["hidden_size"], config["intermediate_size"]
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": Residual(E, config)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(E, F_)})
        self.output = Residual(F_, config)

    def forward(self, x, mask):
        x = self.attention["output"](x, self.attention["self"](x, mask))
        return self.output(x, F.gelu(self.intermediate["dense"](x)))


class Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        E = config["hidden_size"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], E)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], E)
        if config["position_embedding_type"] == "absolute":
            self.position_embeddings = nn.Embedding(config["max_position_embeddings"], E)
        self.LayerNorm = nn.LayerNorm(E, eps=config["layer_norm_eps"])
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(self, ids):
        x = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        if hasattr(self, "position_embeddings"):
            x = x + self.position_embeddings.weight[: ids.shape[1]]
        return self.dropout(self.LayerNorm(x))


class Bert(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))}
        )
        self.pooler = nn.ModuleDict({"dense": nn.Linear(config["hidden_size"], config["hidden_size"])})

    def forward(self, ids, mask):
        x = self.embeddings(ids)
        for layer in self.encoder["layer"]:
            x = layer(x, mask)
        return x


class LionTextModel(nn.Module):
    """The encoder with up to two outputs: a unit vector (mean, Dense, normalise) and class logits (pooler, classifier).

    config is config.json; without num_labels there is no classifier, without embedding_width no Dense. Parameter names
    are those of the model directory, `dense.*` aside, which is the directory's 2_Dense.
    """

    def __init__(self, config, embedding_width):
        super().__init__()
        self.config = config
        self.bert = Bert(config)
        if config.get("num_labels"):
            self.classifier = nn.Linear(config["hidden_size"], config["num_labels"])
        if embedding_width:
            self.dense = nn.Linear(config["hidden_size"], embedding_width)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        self.apply(self._init)
        # Half-lives of 5 to 5,600 tokens, one a head: some heads see the neighbours, some the document.
        spread = torch.linspace(-2, -9, config["num_attention_heads"])
        for layer in self.bert.encoder["layer"]:
            attention = layer.attention["self"]
            if config["arch_type"] == "lion-s":
                attention.Wa_i.bias.data.copy_(spread)
            if config["arch_type"] == "lion-d":
                attention.ai.data.copy_(-spread)

    @staticmethod
    def _init(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(
                module.weight, std=0.02 if isinstance(module, nn.Embedding) else module.weight.shape[1] ** -0.5 / 2
            )
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, ids, mask):
        """ids (B, L) int64, mask (B, L) float, 1 on tokens. Returns unit vectors (B, embedding width) and logits
        (B, num_labels), float32; None in the place of the one that the model has no weights for."""
        x = self.bert(ids, mask)
        logits = vectors = None
        if hasattr(self, "classifier"):
            pooled = torch.tanh(self.bert.pooler["dense"](x[:, 0]))
            logits = self.classifier(self.dropout(pooled)).float()
        if hasattr(self, "dense"):
            mean = (x.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            vectors = F.normalize(self.dense(mean).float(), dim=-1)
        return vectors, logits


def new_config(labels, vocab_size, dropout, variant="lion-s", layers=4, width=256, heads=4, feed_forward=1024):
    """config.json of an encoder without positions (LION-LIT: with 512) and with layer_norm_after. labels may be empty."""
    config = {
        "architectures": ["BertForSequenceClassification" if labels else "BertModel"],
        "model_type": "bert",
        "arch_type": variant,
        "layer_norm_after": True,
        "position_embedding_type": "absolute" if variant == "lion-lit" else "relative_key_query",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": feed_forward,
        "hidden_act": "gelu",
        "hidden_dropout_prob": dropout,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }
    return config | label_config(labels)


def label_config(labels):
    """The fields of config.json that name the classes, none where there are none."""
    if not labels:
        return {}
    return {
        "problem_type": "single_label_classification",
        "num_labels": len(labels),
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def device_of(name):
    """torch's device for --device=auto (a GPU if there is one), cpu or cuda."""
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ValueError("--device=cuda: torch finds no GPU")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def write_model(model, tokenizer, directory, dtype=torch.float16, one_type=True):
    """Writes the model directory, weights in dtype, as sentence-transformers lays it out.

    one_type: training has shown single texts only. The second type takes the first one's vector then: a pair is read as
    one joined text.
    """
    os.makedirs(directory, exist_ok=True)
    weights = {k: v.detach().cpu().to(dtype).contiguous() for k, v in model.state_dict().items()}
    types = weights["bert.embeddings.token_type_embeddings.weight"]
    if one_type:
        types[1:] = types[:1]
    for name, t in weights.items():
        if not torch.isfinite(t).all():
            raise ValueError(f"{name} does not fit {dtype}")
    dense = {k.replace("dense.", "linear.", 1): weights.pop(k) for k in ("dense.weight", "dense.bias") if k in weights}
    save_file(weights, f"{directory}/model.safetensors", metadata={"format": "pt"})
    layout.write_json(f"{directory}/config.json", model.config)
    written = ["model.safetensors"]
    if dense:
        out_features, in_features = dense["linear.weight"].shape
        layout.write_pipeline(directory, in_features, "mean", dense_width=out_features, normalize=True)
        save_file(dense, f"{directory}/2_Dense/model.safetensors", metadata={"format": "pt"})
        written.append("2_Dense/model.safetensors")
    tokenizer.save(f"{directory}/tokenizer.json")
    for path in written:
        os.chmod(os.path.join(directory, path), 0o644)  # safetensors writes them for the owner alone


def read_weights(directory):
    """({parameter name: float32 tensor}, config.json) of a model directory in one file, `dense.*` from 2_Dense if it is there."""
    with open(f"{directory}/config.json", encoding="utf-8") as f:
        config = json.load(f)
    weights = load_file(f"{directory}/model.safetensors")
    if os.path.exists(f"{directory}/2_Dense/model.safetensors"):
        dense = load_file(f"{directory}/2_Dense/model.safetensors")
        weights |= {k.replace("linear.", "dense.", 1): v for k, v in dense.items()}
    return {k: v.float() for k, v in weights.items()}, config


def read_model(directory):
    """Returns (model in float32 and eval mode, tokenizer) from a directory that write_model wrote."""
    weights, config = read_weights(directory)
    model = LionTextModel(config, weights["dense.weight"].shape[0] if "dense.weight" in weights else 0)
    model.load_state_dict(weights)
    return model.eval(), Tokenizer.from_file(f"{directory}/tokenizer.json")


@torch.no_grad()
def run_texts(model, tokenizer, texts, max_tokens=32768):
    """Vectors and logits of `texts`, on the CPU, in their order; a batch holds like lengths, about `max_tokens` in all."""
    encoded = [e.ids for e in tokenizer.encode_batch(texts)]
    return run_ids(model, encoded, max_tokens)


@torch.no_grad()
def run_ids(model, encoded, max_tokens=32768):
    """The same from token ids, a list for each text. None in the place of what the model does not have."""
    device = next(model.parameters()).device
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    results = [
        torch.empty(len(encoded), getattr(model, part).out_features) if hasattr(model, part) else None
        for part in ("dense", "classifier")
    ]
    while order:
        L = len(encoded[order[-1]])
        rows = [order.pop() for _ in range(min(len(order), max(1, max_tokens // L)))]
        ids, mask = pad([encoded[i] for i in rows])
        for result, t in zip(results, model(ids.to(device), mask.to(device))):
            if result is not None:
                result[rows] = t.cpu()
    return tuple(results)


def pad(sequences):
    """(ids (B, L) int64 padded with 0, mask (B, L) float32)."""
    lengths = np.array([len(s) for s in sequences])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.concatenate([np.asarray(s, dtype=np.int64) for s in sequences])
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.float32))
