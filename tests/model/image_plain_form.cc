// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "tests/model/image_plain_form.h"

#include <ATen/ATen.h>

#include <cmath>
#include <string>

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
    default:
      return at::kFloat;
  }
}

// Every row of x as whole multiples of a 127th of its largest value.
at::Tensor RoundedRows(const at::Tensor& x) {
  const at::Tensor scale = x.abs().amax(1, /*keepdim=*/true).clamp_min(1e-30) / 127;
  return at::round(x / scale) * scale;
}

// Every row of x in e4m3, its largest value as 448.
at::Tensor RoundedRowsFp8(const at::Tensor& x) {
  const at::Tensor scale = x.to(at::kFloat).abs().amax(1, /*keepdim=*/true).clamp_min(1e-30) / 448;
  return (x.to(at::kFloat) / scale).to(at::kFloat8_e4m3fn).to(at::kFloat) * scale;
}

class PlainImage {
 public:
  PlainImage(const RandomImageModelOptions& options, const std::map<std::string, NamedTensor>& tensors, PlainType type)
      : o_(options),
        tensors_(tensors),
        type_(type),
        X_(TorchType(type)),
        wide_(type == PlainType::kFloat64 ? at::kDouble : at::kFloat) {}

  at::Tensor Run(const std::vector<float>& pixels) const {
    const int64_t E = o_.hidden_width;
    const int64_t S = std::lround(std::sqrt(static_cast<double>(pixels.size()) / kImageChannels));
    const int64_t side = S / o_.patch_size;
    const at::Tensor picture = at::from_blob(const_cast<float*>(pixels.data()), {1, kImageChannels, S, S}).to(X_);
    const at::Tensor grid =
        at::conv2d(picture, Get("patch_embed.proj.weight").to(X_), Get("patch_embed.proj.bias").to(X_), o_.patch_size);
    const at::Tensor patches = grid.reshape({E, side * side}).t().to(wide_);
    at::Tensor x = at::cat({Get("cls_token").to(wide_).reshape({1, E}), patches});
    if (o_.positions) x = x + Get("pos_embed").to(wide_).reshape({-1, E});
    for (int64_t n = 0; n < o_.num_layers; ++n) {
      const std::string block = "blocks." + std::to_string(n) + ".";
      x = x + Linear(Attention(Norm(x, block + "norm1"), side, block + "attn."), block + "attn.proj").to(wide_);
      const at::Tensor hidden = at::gelu(Linear(Norm(x, block + "norm2"), block + "mlp.fc1"));
      x = x + Linear(hidden, block + "mlp.fc2").to(wide_);
    }
    return Norm(x, "norm");
  }

 private:
  at::Tensor Get(const std::string& name) const {
    const NamedTensor& t = tensors_.at(name);
    return at::from_blob(const_cast<float*>(t.values.data()), t.shape).clone();
  }

  at::Tensor Linear(const at::Tensor& x, const std::string& name) const {
    const bool has_bias = tensors_.count(name + ".bias") > 0;
    const at::Tensor bias = has_bias ? Get(name + ".bias") : at::zeros({Get(name + ".weight").size(0)});
    if (type_ == PlainType::kInt8) {
      return (at::linear(RoundedRows(x).to(at::kDouble), RoundedRows(Get(name + ".weight")).to(at::kDouble)) + bias)
          .to(X_);
    }
    if (type_ == PlainType::kFp8) {
      return (at::linear(RoundedRowsFp8(x).to(at::kDouble), RoundedRowsFp8(Get(name + ".weight")).to(at::kDouble)) +
              bias)
          .to(X_);
    }
    return at::linear(x.to(X_), Get(name + ".weight").to(X_), bias.to(X_));
  }

  at::Tensor Norm(const at::Tensor& x, const std::string& name) const {
    return at::layer_norm(x.to(wide_), {o_.hidden_width}, Get(name + ".weight").to(wide_),
                          Get(name + ".bias").to(wide_), 1e-6);
  }

  at::Tensor FeatureMap(const at::Tensor& x) const {
    const at::Tensor wide = x.to(wide_);
    if (o_.variant == Variant::kLit) return (at::elu(wide) + 1).to(X_);
    const at::Tensor u = at::silu(wide) + 0.5;
    return (u / u.square().sum(-1, /*keepdim=*/true).sqrt()).to(X_);
  }

  // The tokens in the order of a path.
  at::Tensor Path(int path, int64_t side) const {
    at::Tensor order = at::arange(1, side * side + 1, at::kLong).reshape({side, side});
    if (path == 1) order = order.t().contiguous();
    if (o_.two_paths) {
      for (int64_t line = 1; line < side; line += 2) order[line].copy_(order[line].flip(0).clone());
    }
    return at::cat({at::zeros({1}, at::kLong), order.reshape({-1})});
  }

  // M (H, L, L) of one path, in grid order. u (L, E): the attention's input.
  at::Tensor Mask(const at::Tensor& u, int path, int64_t side, const std::string& name) const {
    const int64_t L = u.size(0);
    const int64_t H = o_.num_heads;
    at::Tensor log_a = at::zeros({H, L}, at::kDouble);
    if (o_.variant == Variant::kD) {
      log_a = at::log_sigmoid(Get(name).to(at::kDouble)).unsqueeze(1).expand({H, L}).contiguous();
    } else if (o_.variant == Variant::kS) {
      const at::Tensor z = at::linear(u.to(wide_), Get(name + ".weight").to(wide_), Get(name + ".bias").to(wide_));
      log_a = at::log_sigmoid(-z.to(at::kDouble)).t().contiguous();
      log_a.select(1, 0).zero_();
    }
    const at::Tensor order = Path(path, side);
    const at::Tensor along = log_a.index_select(1, order);
    const at::Tensor d = along.cumsum(1);
    const at::Tensor c = d - along;
    const at::Tensor below = (c.unsqueeze(2) - c.unsqueeze(1)).tril(-1).exp().tril(-1);
    const at::Tensor above = (d.unsqueeze(1) - d.unsqueeze(2)).triu(1).exp().triu(1);
    const at::Tensor M = below + above + at::eye(L, at::kDouble);
    const at::Tensor back = order.argsort();
    return M.index_select(1, back).index_select(2, back);
  }

  at::Tensor Attention(const at::Tensor& u, int64_t side, const std::string& name) const {
    const int64_t L = u.size(0);
    const int64_t H = o_.num_heads;
    const int64_t E = o_.hidden_width;
    const int64_t D = E / H;
    const at::Tensor qkv = Linear(u, name + "qkv").view({L, 3, H, D}).permute({1, 2, 0, 3});
    at::Tensor M = Mask(u, 0, side, name + "a_i");
    if (o_.two_paths) M = (M + Mask(u, 1, side, name + "a2_i")) / 2;
    const at::Tensor dots = at::matmul(FeatureMap(qkv[0]), FeatureMap(qkv[1]).transpose(1, 2)).to(wide_);
    const at::Tensor scores = (dots * (M / std::sqrt(static_cast<double>(D))).to(wide_)).to(X_);
    const at::Tensor sums = scores.to(wide_).sum(2, /*keepdim=*/true) + 1e-6;
    const at::Tensor y = at::matmul(scores, qkv[2]).to(wide_) / sums;
    return y.transpose(0, 1).reshape({L, E});
  }

  const RandomImageModelOptions& o_;
  const std::map<std::string, NamedTensor>& tensors_;
  const PlainType type_;
  const at::ScalarType X_;
  const at::ScalarType wide_;
};

}  // namespace

std::vector<double> ImagePlainForm(const RandomImageModelOptions& options,
                                   const std::map<std::string, NamedTensor>& tensors, const std::vector<float>& pixels,
                                   PlainType type) {
  const at::Tensor out = PlainImage(options, tensors, type).Run(pixels).to(at::kDouble).contiguous();
  return {out.data_ptr<double>(), out.data_ptr<double>() + out.numel()};
}

}  // namespace lion
