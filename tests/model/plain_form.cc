// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "tests/model/plain_form.h"

#include <ATen/ATen.h>

#include <cmath>

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

}  // namespace

std::vector<double> PlainForm(const RandomModelOptions& o, const std::map<std::string, NamedTensor>& tensors,
                              const std::vector<uint32_t>& ids, PlainType type) {
  const at::ScalarType X = TorchType(type);
  const at::ScalarType wide = type == PlainType::kFloat64 ? at::kDouble : at::kFloat;
  const int64_t L = static_cast<int64_t>(ids.size());
  const int64_t E = o.hidden_width;
  const int64_t H = o.num_heads;
  const int64_t D = E / H;
  auto get = [&](const std::string& name) {
    const NamedTensor& t = tensors.at(name);
    return at::from_blob(const_cast<float*>(t.values.data()), t.shape).clone();
  };
  auto linear = [&](const at::Tensor& x, const std::string& name) {
    if (type == PlainType::kInt8) {
      return (at::linear(RoundedRows(x).to(at::kDouble), RoundedRows(get(name + ".weight")).to(at::kDouble)) +
              get(name + ".bias"))
          .to(X);
    }
    if (type == PlainType::kFp8) {
      return (at::linear(RoundedRowsFp8(x).to(at::kDouble), RoundedRowsFp8(get(name + ".weight")).to(at::kDouble)) +
              get(name + ".bias"))
          .to(X);
    }
    return at::linear(x.to(X), get(name + ".weight").to(X), get(name + ".bias").to(X));
  };
  auto norm = [&](const at::Tensor& x, const std::string& name, double eps) {
    return at::layer_norm(x.to(wide), {E}, get(name + ".weight").to(wide), get(name + ".bias").to(wide), eps).to(X);
  };
  const std::vector<int64_t> wide_ids(ids.begin(), ids.end());
  const at::Tensor index = at::from_blob(const_cast<int64_t*>(wide_ids.data()), {L}, at::kLong);
  at::Tensor x = get("bert.embeddings.word_embeddings.weight").to(wide).index_select(0, index) +
                 get("bert.embeddings.token_type_embeddings.weight").to(wide)[0];
  if (o.absolute_positions) x = x + get("bert.embeddings.position_embeddings.weight").to(wide).narrow(0, 0, L);
  x = norm(x, "bert.embeddings.LayerNorm", 1e-12);

  for (int64_t n = 0; n < o.num_layers; ++n) {
    const std::string layer = "bert.encoder.layer." + std::to_string(n) + ".";
    const std::string self = layer + "attention.self.";
    auto heads = [&](const char* part) { return linear(x, self + part).view({L, H, D}).transpose(0, 1); };
    const at::Tensor q = heads("query");
    const at::Tensor k = heads("key");
    const at::Tensor v = heads("value");
    at::Tensor log_a = at::zeros({H, L}, at::kDouble);
    if (o.variant == Variant::kD) {
      log_a = at::log_sigmoid(get(self + "ai").to(at::kDouble)).unsqueeze(1).expand({H, L}).contiguous();
    }
    if (o.variant == Variant::kS) {
      const at::Tensor z = at::linear(x.to(wide), get(self + "Wa_i.weight").to(wide), get(self + "Wa_i.bias").to(wide));
      log_a = (at::sigmoid(-z.to(at::kDouble)) + 1e-7).log().clamp_max(0).t();
    }
    // M_ij from sums of log a: over [j, i) below the diagonal, over (i, j] above it.
    const at::Tensor d = log_a.cumsum(1);
    const at::Tensor c = d - log_a;
    const at::Tensor below = (c.unsqueeze(2) - c.unsqueeze(1)).tril(-1).exp().tril(-1);
    const at::Tensor above = (d.unsqueeze(1) - d.unsqueeze(2)).triu(1).exp().triu(1);
    const at::Tensor M = (below + above + at::eye(L, at::kDouble)).to(wide);
    const at::Tensor scores =
        (at::matmul(q, k.transpose(1, 2)).to(wide) * (M / std::sqrt(static_cast<double>(D)))).to(X);
    at::Tensor y = at::matmul(scores, v).transpose(0, 1).reshape({L, E});
    if (o.layer_norm_after) y = norm(y, self + "layer_norm", 1e-5);
    x = norm(x + linear(y, layer + "attention.output.dense"), layer + "attention.output.LayerNorm", 1e-12);
    const at::Tensor hidden = at::gelu(linear(x, layer + "intermediate.dense"));
    x = norm(x + linear(hidden, layer + "output.dense"), layer + "output.LayerNorm", 1e-12);
  }
  const at::Tensor out = x.to(at::kDouble).contiguous();
  return {out.data_ptr<double>(), out.data_ptr<double>() + L * E};
}

}  // namespace lion
