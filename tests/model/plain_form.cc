// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "tests/model/plain_form.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

#include "tests/sanitized.h"

namespace lion {
namespace {

at::ScalarType TorchType(PlainType type) {
  switch (type) {
    case PlainType::kFloat64:
      return at::kDouble;
    case PlainType::kBFloat16:
    case PlainType::kFp8:
      return at::kBFloat16;
    case PlainType::kFloat16:
      return at::kHalf;
    case PlainType::kFloat32:
    case PlainType::kInt8:
      break;
  }
  return at::kFloat;
}

// Every row of x as whole multiples of a 127th of its largest value.
at::Tensor RoundedRows(const at::Tensor& x) {
  const at::Tensor scale = x.abs().amax(1, /*keepdim=*/true) / 127;
  return at::round(x / scale) * scale;
}

// Every row of x in e4m3, its largest value as 448.
at::Tensor RoundedRowsFp8(const at::Tensor& x) {
  const at::Tensor scale = x.to(at::kFloat).abs().amax(1, /*keepdim=*/true).clamp_min(1e-30) / 448;
  return (x.to(at::kFloat) / scale).to(at::kFloat8_e4m3fn).to(at::kFloat) * scale;
}

// The model's parts, as operations on rows.
class PlainParts {
 public:
  PlainParts(const RandomModelOptions& options, const std::map<std::string, NamedTensor>& tensors, PlainType type)
      : o_(options),
        tensors_(tensors),
        type_(type),
        X_(TorchType(type)),
        wide_(type == PlainType::kFloat64 ? at::kDouble : at::kFloat) {
    // On this thread alone: what orders OpenMP's threads lies in a library that no sanitizer sees into.
    if (kSanitized) at::set_num_threads(1);
  }

  at::ScalarType X() const { return X_; }
  at::ScalarType wide() const { return wide_; }

  at::Tensor Get(const std::string& name) const {
    const NamedTensor& t = tensors_.at(name);
    return at::from_blob(const_cast<float*>(t.values.data()), t.shape).clone();
  }

  at::Tensor Linear(const at::Tensor& x, const std::string& name) const {
    if (type_ == PlainType::kInt8) {
      return (at::linear(RoundedRows(x).to(at::kDouble), RoundedRows(Get(name + ".weight")).to(at::kDouble)) +
              Get(name + ".bias"))
          .to(X_);
    }
    if (type_ == PlainType::kFp8) {
      return (at::linear(RoundedRowsFp8(x).to(at::kDouble), RoundedRowsFp8(Get(name + ".weight")).to(at::kDouble)) +
              Get(name + ".bias"))
          .to(X_);
    }
    return at::linear(x.to(X_), Get(name + ".weight").to(X_), Get(name + ".bias").to(X_));
  }

  at::Tensor Norm(const at::Tensor& x, const std::string& name, double eps) const {
    return at::layer_norm(x.to(wide_), {o_.hidden_width}, Get(name + ".weight").to(wide_),
                          Get(name + ".bias").to(wide_), eps)
        .to(X_);
  }

  // x (L, E) of ids.
  at::Tensor Embed(const std::vector<uint32_t>& ids) const {
    const std::vector<int64_t> wide_ids(ids.begin(), ids.end());
    const auto L = static_cast<int64_t>(ids.size());
    const at::Tensor index = at::from_blob(const_cast<int64_t*>(wide_ids.data()), {L}, at::kLong);
    at::Tensor x = Get("bert.embeddings.word_embeddings.weight").to(wide_).index_select(0, index) +
                   Get("bert.embeddings.token_type_embeddings.weight").to(wide_)[0];
    if (o_.absolute_positions) x = x + Get("bert.embeddings.position_embeddings.weight").to(wide_).narrow(0, 0, L);
    return Norm(x, "bert.embeddings.LayerNorm", 1e-12);
  }

  // log a (H, L) in fp64 of a layer's x.
  at::Tensor LogDecay(const at::Tensor& x, const std::string& self) const {
    const int64_t L = x.size(0);
    const int64_t H = o_.num_heads;
    if (o_.variant == Variant::kD) {
      return at::log_sigmoid(Get(self + "ai").to(at::kDouble)).unsqueeze(1).expand({H, L}).contiguous();
    }
    if (o_.variant != Variant::kS) return at::zeros({H, L}, at::kDouble);
    const at::Tensor z =
        at::linear(x.to(wide_), Get(self + "Wa_i.weight").to(wide_), Get(self + "Wa_i.bias").to(wide_));
    return (at::sigmoid(-z.to(at::kDouble)) + 1e-7).log().clamp_max(0).t();
  }

  // What follows attention's y, row by row.
  at::Tensor Rest(at::Tensor x, at::Tensor y, const std::string& layer) const {
    if (o_.layer_norm_after) y = Norm(y, layer + "attention.self.layer_norm", 1e-5);
    x = Norm(x + Linear(y, layer + "attention.output.dense"), layer + "attention.output.LayerNorm", 1e-12);
    const at::Tensor hidden = at::gelu(Linear(x, layer + "intermediate.dense"));
    return Norm(x + Linear(hidden, layer + "output.dense"), layer + "output.LayerNorm", 1e-12);
  }

 private:
  const RandomModelOptions& o_;
  const std::map<std::string, NamedTensor>& tensors_;
  const PlainType type_;
  const at::ScalarType X_;
  const at::ScalarType wide_;
};

std::vector<double> Values(const at::Tensor& x) {
  const at::Tensor out = x.to(at::kDouble).contiguous();
  return {out.data_ptr<double>(), out.data_ptr<double>() + out.numel()};
}

}  // namespace

std::vector<double> PlainForm(const RandomModelOptions& o, const std::map<std::string, NamedTensor>& tensors,
                              const std::vector<uint32_t>& ids, PlainType type) {
  const PlainParts parts(o, tensors, type);
  const int64_t L = static_cast<int64_t>(ids.size());
  const int64_t E = o.hidden_width;
  const int64_t H = o.num_heads;
  const int64_t D = E / H;
  at::Tensor x = parts.Embed(ids);
  for (int64_t n = 0; n < o.num_layers; ++n) {
    const std::string layer = "bert.encoder.layer." + std::to_string(n) + ".";
    const std::string self = layer + "attention.self.";
    auto heads = [&](const char* part) { return parts.Linear(x, self + part).view({L, H, D}).transpose(0, 1); };
    const at::Tensor q = heads("query");
    const at::Tensor k = heads("key");
    const at::Tensor v = heads("value");
    const at::Tensor log_a = parts.LogDecay(x, self);
    // M_ij from sums of log a: over [j, i) below the diagonal, over (i, j] above it.
    const at::Tensor d = log_a.cumsum(1);
    const at::Tensor c = d - log_a;
    const at::Tensor below = (c.unsqueeze(2) - c.unsqueeze(1)).tril(-1).exp().tril(-1);
    const at::Tensor above = (d.unsqueeze(1) - d.unsqueeze(2)).triu(1).exp().triu(1);
    const at::Tensor M = (below + above + at::eye(L, at::kDouble)).to(parts.wide());
    const at::Tensor scores =
        (at::matmul(q, k.transpose(1, 2)).to(parts.wide()) * (M / std::sqrt(static_cast<double>(D)))).to(parts.X());
    x = parts.Rest(x, at::matmul(scores, v).transpose(0, 1).reshape({L, E}), layer);
  }
  return Values(x);
}

std::vector<double> PlainFormAt(const RandomModelOptions& o, const std::map<std::string, NamedTensor>& tensors,
                                const std::vector<uint32_t>& ids, const std::vector<int64_t>& positions,
                                PlainType type) {
  const PlainParts parts(o, tensors, type);
  const auto L = static_cast<int64_t>(ids.size());
  const auto S = static_cast<int64_t>(positions.size());
  const int64_t V = o.vocab_size;
  const int64_t E = o.hidden_width;
  const int64_t H = o.num_heads;
  const int64_t D = E / H;
  const std::string layer = "bert.encoder.layer.0.";
  const std::string self = layer + "attention.self.";
  std::vector<uint32_t> all(V);
  for (int64_t id = 0; id < V; ++id) all[id] = static_cast<uint32_t>(id);
  // Of each id: (V, E), (H, V, D) and (H, V).
  const at::Tensor x = parts.Embed(all);
  auto heads = [&](const char* part) { return parts.Linear(x, self + part).view({V, H, D}).transpose(0, 1); };
  const at::Tensor q = heads("query");
  const at::Tensor k = heads("key");
  const at::Tensor v = heads("value").to(at::kDouble);
  const at::Tensor dots = at::matmul(q, k.transpose(1, 2)).to(parts.wide());
  const at::Tensor log_decay = parts.LogDecay(x, self);

  const std::vector<int64_t> wide_ids(ids.begin(), ids.end());
  const at::Tensor index = at::from_blob(const_cast<int64_t*>(wide_ids.data()), {L}, at::kLong);
  at::Tensor y = at::zeros({S, E}, at::kDouble);
  at::Tensor rows = at::zeros({S}, at::kLong);
  for (int64_t h = 0; h < H; ++h) {
    const at::Tensor log_a = log_decay[h].index_select(0, index);
    const at::Tensor d = log_a.cumsum(0);
    const at::Tensor c = d - log_a;
    for (int64_t s = 0; s < S; ++s) {
      const int64_t i = positions[s];
      rows[s] = wide_ids[i];
      // Row i of M: 1 on the diagonal.
      const at::Tensor M = at::cat({(c[i] - c.narrow(0, 0, i)).exp(), at::ones({1}, at::kDouble),
                                    (d.narrow(0, i + 1, L - i - 1) - d[i]).exp()})
                               .to(parts.wide());
      const at::Tensor scores =
          (dots[h][wide_ids[i]].index_select(0, index) * (M / std::sqrt(static_cast<double>(D)))).to(parts.X());
      const at::Tensor of_ids = at::zeros({V}, at::kDouble).index_add(0, index, scores.to(at::kDouble));
      y[s].narrow(0, h * D, D).copy_(at::matmul(of_ids, v[h]));
    }
  }
  return Values(parts.Rest(x.index_select(0, rows), y.to(parts.X()), layer));
}

}  // namespace lion
