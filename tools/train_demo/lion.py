# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The LION-S text encoder in plain torch, for training: padded batches, autograd, a parallel and a chunked form.

The server computes the same from the same model directory (read_model, write_model); nothing here is used to serve.

Letters: B sequences, L tokens of the longest one, H heads, D width of a head, E = H·D, C tokens of a chunk, N chunks.
Per head, with decays a_t in (0, 1]:

    y_i = Σ_j (q_i · k_j / √D) · M_ij · v_j
    M_ij = Π_{t=j}^{i-1} a_t for j < i,    Π_{t=i+1}^{j} a_t for j > i,    1 for j = i

Sequences are padded on the right. A padding key is zero and a padding decay is 1, so neither reaches a real row.
"""

import json
import os

import torch
import torch.nn.functional as F
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
        E, self.H = config["hidden_size"], config["num_attention_heads"]
        self.query, self.key, self.value = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)
        self.Wa_i = nn.Linear(E, self.H)
        self.layer_norm = nn.LayerNorm(E, eps=1e-5)

    def forward(self, x, mask):
        B, L, E = x.shape
        q, k, v = (f(x).view(B, L, self.H, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        with torch.autocast(x.device.type, enabled=False):
            log_a = log_decay(self.Wa_i(x.float())).transpose(1, 2)
        k = k * mask[:, None, :, None]
        log_a = log_a * mask[:, None]
        if L <= PARALLEL_MAX:
            y = parallel_attention(q, k, v, log_a)
        else:
            pad = -L % CHUNK
            q, k, v = (F.pad(t, (0, 0, 0, pad)) for t in (q, k, v))
            y = chunked_attention(q, k, v, F.pad(log_a, (0, pad)))[:, :, :L]
        return self.layer_norm(y.transpose(1, 2).reshape(B, L, E))


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
        self.LayerNorm = nn.LayerNorm(E, eps=config["layer_norm_eps"])
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(self, ids):
        return self.dropout(self.LayerNorm(self.word_embeddings(ids) + self.token_type_embeddings.weight[0]))


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
    """The encoder with both outputs: a unit vector (mean, Dense, normalise) and section logits (pooler, classifier).

    Parameter names are those of the model directory, `dense.*` aside, which is the directory's 2_Dense.
    """

    def __init__(self, config, embedding_width):
        super().__init__()
        self.config = config
        self.bert = Bert(config)
        self.classifier = nn.Linear(config["hidden_size"], config["num_labels"])
        self.dense = nn.Linear(config["hidden_size"], embedding_width)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        self.apply(self._init)
        for layer in self.bert.encoder["layer"]:
            # Half-lives of 5 to 5,600 tokens, one a head: some heads see the neighbours, some the document.
            gate = layer.attention["self"].Wa_i
            gate.bias.data.copy_(torch.linspace(-2, -9, config["num_attention_heads"]))

    @staticmethod
    def _init(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(
                module.weight, std=0.02 if isinstance(module, nn.Embedding) else module.weight.shape[1] ** -0.5 / 2
            )
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, ids, mask):
        """ids (B, L) int64, mask (B, L) float, 1 on tokens. Returns unit vectors (B, 384), logits (B, num_labels), float32."""
        x = self.bert(ids, mask)
        pooled = torch.tanh(self.bert.pooler["dense"](x[:, 0]))
        logits = self.classifier(self.dropout(pooled))
        mean = (x.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(self.dense(mean).float(), dim=-1), logits.float()


def new_config(labels, vocab_size, dropout):
    return {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "arch_type": "lion-s",
        "layer_norm_after": True,
        "position_embedding_type": "relative_key_query",
        "vocab_size": vocab_size,
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "hidden_act": "gelu",
        "hidden_dropout_prob": dropout,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "problem_type": "single_label_classification",
        "num_labels": len(labels),
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        f.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_model(model, tokenizer, directory):
    """Writes the model directory, weights in float16, as sentence-transformers lays it out."""
    for folder in ("1_Pooling", "2_Dense"):
        os.makedirs(os.path.join(directory, folder), exist_ok=True)
    weights = {k: v.detach().cpu().half().contiguous() for k, v in model.state_dict().items()}
    # Training shows single texts only. The second type takes the first one's vector: a pair is read as one joined text.
    types = weights["bert.embeddings.token_type_embeddings.weight"]
    types[1:] = types[:1]
    for name, t in weights.items():
        if not torch.isfinite(t).all():
            raise ValueError(f"{name} does not fit float16")
    dense = {k.replace("dense.", "linear.", 1): weights.pop(k) for k in ("dense.weight", "dense.bias")}
    save_file(weights, f"{directory}/model.safetensors", metadata={"format": "pt"})
    save_file(dense, f"{directory}/2_Dense/model.safetensors", metadata={"format": "pt"})
    out_features, in_features = dense["linear.weight"].shape
    write_json(f"{directory}/config.json", model.config)
    write_json(
        f"{directory}/modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(
                [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
            )
        ],
    )
    write_json(
        f"{directory}/1_Pooling/config.json",
        {
            "word_embedding_dimension": in_features,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    write_json(
        f"{directory}/2_Dense/config.json",
        {
            "in_features": in_features,
            "out_features": out_features,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    tokenizer.save(f"{directory}/tokenizer.json")
    for path in ("model.safetensors", "2_Dense/model.safetensors"):
        os.chmod(os.path.join(directory, path), 0o644)  # safetensors writes them for the owner alone


def read_model(directory):
    """Returns (model in float32 and eval mode, tokenizer) from a directory that write_model wrote."""
    with open(f"{directory}/config.json", encoding="utf-8") as f:
        config = json.load(f)
    weights = load_file(f"{directory}/model.safetensors")
    weights |= {
        k.replace("linear.", "dense.", 1): v for k, v in load_file(f"{directory}/2_Dense/model.safetensors").items()
    }
    model = LionTextModel(config, weights["dense.weight"].shape[0])
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    return model.eval(), Tokenizer.from_file(f"{directory}/tokenizer.json")


@torch.no_grad()
def run_texts(model, tokenizer, texts, max_tokens=32768):
    """Vectors and logits of `texts`, on the CPU, in their order; a batch holds like lengths, about `max_tokens` in all."""
    device = next(model.parameters()).device
    encoded = [e.ids for e in tokenizer.encode_batch(texts)]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    vectors = torch.empty(len(texts), model.dense.out_features)
    logits = torch.empty(len(texts), model.classifier.out_features)
    while order:
        L = len(encoded[order[-1]])
        rows = [order.pop() for _ in range(min(len(order), max(1, max_tokens // L)))]
        ids, mask = pad([encoded[i] for i in rows])
        vectors[rows], logits[rows] = (t.cpu() for t in model(ids.to(device), mask.to(device)))
    return vectors, logits


def pad(sequences):
    """(ids (B, L) int64 padded with 0, mask (B, L) float32)."""
    L = max(map(len, sequences))
    ids = torch.zeros(len(sequences), L, dtype=torch.int64)
    mask = torch.zeros(len(sequences), L)
    for row, s in enumerate(sequences):
        ids[row, : len(s)] = torch.as_tensor(s)
        mask[row, : len(s)] = 1
    return ids, mask
