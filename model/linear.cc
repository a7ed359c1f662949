// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/linear.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <tuple>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "model/kernels/cpu/cpu_features.h"
#include "model/kernels/cpu/product_amx.h"
#include "model/page_buffer.h"

namespace lion {
namespace {

// Fine where groups of rows end, which are filled until the next row no longer fits: what a tile has beyond them is
// lost.
constexpr int64_t kTileChoices[] = {16, 32, 64, 128, 192, 256, 320, 384, 400, 416, 432, 448, 464, 480, 496, 512};
constexpr int64_t kSmallTailRows = 32;  // a call costs about what so many rows do

at::ScalarType OperandType(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return at::kBFloat16;
    case DType::kInt8:
      return Linear::Int8Offset() == 0 ? at::kChar : at::kByte;
    default:
      return at::kFloat;
  }
}

// The prepacked products have no place in ATen's C++ API: they are reached by name.
at::Tensor Reorder(const at::Tensor& weight, int64_t rows) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                             .typed<at::Tensor(const at::Tensor&, std::optional<int64_t>)>();
  return op.call(weight, rows);
}

at::Tensor FloatProduct(const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                            c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>)>();
  return op.call(x, packed, bias, "none", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

at::Tensor ReorderInt8(const at::Tensor& weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("onednn::qlinear_prepack", "")
                             .typed<at::Tensor(at::Tensor, std::optional<c10::List<int64_t>>)>();
  return op.call(weight, c10::List<int64_t>({Linear::kMaxTileRows, weight.size(1)}));
}

// (sum over k of (x - offset) w) * scale, summed in int32.
at::Tensor Int8Product(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& scale, const at::Tensor& zero,
                       at::ScalarType out) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("onednn::qlinear_pointwise", "")
          .typed<at::Tensor(at::Tensor, double, int64_t, at::Tensor, at::Tensor, at::Tensor, std::optional<at::Tensor>,
                            double, int64_t, std::optional<at::ScalarType>, std::string_view,
                            c10::List<std::optional<at::Scalar>>, std::string_view)>();
  return op.call(x, 1.0, Linear::Int8Offset(), packed, scale, zero, std::nullopt, 1.0, 0, out, "none",
                 c10::List<std::optional<at::Scalar>>(), "");
}

}  // namespace

struct Linear::Packed {
  DType type = DType::kFloat32;
  at::Tensor weight;
  std::optional<at::Tensor> bias;
  at::Tensor scale;  // kInt8: (N) fp32
  at::Tensor zero;   // kInt8: (N) int32, zeros
  // Where our own kernel takes the product, in place of all of these:
  std::unique_ptr<PageBuffer> tiled;
  std::vector<float> tile_scale;  // (N rounded up to 32), as the kernel reads them; empty = none
  std::vector<float> tile_bias;

  // w: (N, K) in the type.
  void PackTiles(const void* w, const float* column_scale, const float* column_bias, int64_t N, int64_t K) {
    const bool int8 = type == DType::kInt8;
    tiled = std::make_unique<PageBuffer>();
    AmxPack(w, N, K, int8, tiled->Get<char>(AmxPackedBytes(N, K, int8)));
    auto padded = [N](const float* values) {
      std::vector<float> copy;
      if (values == nullptr) return copy;
      copy.assign((N + 31) / 32 * 32, 0.f);
      std::copy(values, values + N, copy.begin());
      return copy;
    };
    tile_scale = padded(column_scale);
    tile_bias = padded(column_bias);
  }

  AmxProduct OnTiles(int64_t N, int64_t K) const {
    AmxProduct product;
    product.N = N;
    product.K = K;
    product.int8 = type == DType::kInt8;
    product.packed = tiled->Get<char>(0);
    if (!tile_scale.empty()) product.scale = tile_scale.data();
    if (!tile_bias.empty()) product.bias = tile_bias.data();
    return product;
  }

  // scales: null = none to apply.
  void RunTiles(AmxProduct product, const void* x, const float* scales, int64_t rows,
                const std::function<void(int64_t, int64_t, void*)>& use) const {
    const int64_t row_bytes = product.K * (product.int8 ? 1 : 2);
    for (int64_t row = 0; row < rows; row += Linear::kMaxTileRows) {
      const int64_t count = std::min(Linear::kMaxTileRows, rows - row);
      const at::Tensor y = at::empty({count + Linear::kTileSlackRows, product.N}, at::kBFloat16);
      auto* out = static_cast<uint16_t*>(y.mutable_data_ptr());
      if (product.int8 && scales != nullptr) product.row_scale = scales + row;
      AmxMultiply(product, static_cast<const char*>(x) + row * row_bytes, count, {out, product.N, 0, 0});
      use(row, count, out);
    }
  }

  at::Tensor Product(const at::Tensor& x) const {
    if (type == DType::kInt8) return Int8Product(x, weight, scale, zero, at::kBFloat16);
    return FloatProduct(x, weight, bias);
  }

  // Which tile sizes give the same bits for this product. Of the sets that agree, the one with the most sizes, of
  // equals the one with the largest tile.
  std::vector<int64_t> AgreeingTiles(int64_t N, int64_t K) const {
    std::mt19937 random(0x4C494F4E);
    std::normal_distribution<float> normal(0, type == DType::kInt8 ? 30.f : 1.f);
    std::vector<float> values(Linear::kMaxTileRows * K);
    for (float& v : values) v = std::clamp(normal(random), -127.f, 127.f);
    at::Tensor x = at::from_blob(values.data(), {Linear::kMaxTileRows, K});
    if (type == DType::kInt8 && Linear::Int8Offset() != 0) x = at::add(x, Linear::Int8Offset());
    x = x.to(OperandType(type));

    std::vector<std::pair<std::vector<int64_t>, at::Tensor>> sets;  // sizes that agree, and the first one's product
    for (int64_t rows : kTileChoices) {
      // All rows of x through tiles of this size, so that every place in a tile is tried.
      at::Tensor y = at::empty({Linear::kMaxTileRows, N}, type == DType::kFloat32 ? at::kFloat : at::kBFloat16);
      for (int64_t next = 0; next < Linear::kMaxTileRows; next += rows) {
        const int64_t row = std::min(next, Linear::kMaxTileRows - rows);
        y.narrow(0, row, rows).copy_(Product(x.narrow(0, row, rows)));
      }
      auto same = std::find_if(sets.begin(), sets.end(), [&](const auto& set) { return at::equal(set.second, y); });
      if (same != sets.end()) {
        same->first.push_back(rows);
      } else {
        sets.push_back({{rows}, y});
      }
    }
    auto better = [](const auto& a, const auto& b) {
      return std::make_tuple(a.first.size(), a.first.back()) < std::make_tuple(b.first.size(), b.first.back());
    };
    return std::max_element(sets.begin(), sets.end(), better)->first;
  }

  // One trial a shape and process: layers share their shapes.
  std::vector<int64_t> CachedTiles(int64_t N, int64_t K) const {
    struct Cache {
      absl::Mutex mu;
      std::map<std::tuple<int64_t, int64_t, DType, bool>, std::vector<int64_t>> tiles ABSL_GUARDED_BY(mu);
    };
    static Cache& cache = *new Cache;
    absl::MutexLock lock(&cache.mu);
    std::vector<int64_t>& tiles = cache.tiles[{N, K, type, bias.has_value()}];
    if (tiles.empty()) tiles = AgreeingTiles(N, K);
    return tiles;
  }
};

Linear::~Linear() = default;

uint8_t Linear::Int8Offset() { return HasAmxInt8() ? 0 : 128; }

absl::Status Linear::CheckInt8() {
  static const bool exact = [] {
    // The largest values of either sign, where narrower sums would saturate.
    constexpr int64_t kRows = 16;
    constexpr int64_t kWidth = 256;
    const int offset = Int8Offset();
    std::vector<int8_t> w(kRows * kWidth);
    std::vector<uint8_t> x(kRows * kWidth);
    std::vector<int> true_x(x.size());
    for (int64_t i = 0; i < kRows * kWidth; ++i) {
      true_x[i] = (i / kWidth) % 3 == 0 ? -127 : (i / kWidth) % 3 == 1 ? 127 : static_cast<int>(i % 255) - 127;
      x[i] = static_cast<uint8_t>(true_x[i] + offset);
      w[i] = static_cast<int8_t>((i / kWidth) % 4 == 0 ? 127 : (i / kWidth) % 4 == 1 ? -127 : i % 128);
    }
    const at::Tensor packed = ReorderInt8(at::from_blob(w.data(), {kRows, kWidth}, at::kChar).clone());
    const at::Tensor scale = at::zeros({kRows}, at::kFloat).fill_(1);
    const at::Tensor y = Int8Product(at::from_blob(x.data(), {kRows, kWidth}, OperandType(DType::kInt8)), packed, scale,
                                     at::zeros({kRows}, at::kInt), at::kFloat);
    const float* out = y.const_data_ptr<float>();
    for (int64_t m = 0; m < kRows; ++m) {
      for (int64_t n = 0; n < kRows; ++n) {
        int sum = 0;
        for (int64_t k = 0; k < kWidth; ++k) sum += true_x[m * kWidth + k] * w[n * kWidth + k];
        if (out[m * kRows + n] != static_cast<float>(sum)) return false;
      }
    }
    return true;
  }();
  if (exact) return absl::OkStatus();
  return absl::UnimplementedError("int8 products are not exact on this CPU: it lacks VNNI");
}

std::unique_ptr<Linear> Linear::Pack(const float* weight, const float* bias, int64_t N, int64_t K, DType dtype) {
  std::unique_ptr<Linear> linear(new Linear);
  linear->N_ = N;
  linear->K_ = K;
  linear->dtype_ = dtype;
  linear->packed_ = std::make_unique<Packed>();
  Packed& packed = *linear->packed_;
  packed.type = dtype;
  if (dtype == DType::kInt8) {
    packed.scale = at::zeros({N}, at::kFloat);
    packed.zero = at::zeros({N}, at::kInt);
    at::Tensor w = at::empty({N, K}, at::kChar);
    auto* scale = packed.scale.mutable_data_ptr<float>();
    auto* rounded = w.mutable_data_ptr<int8_t>();
    for (int64_t n = 0; n < N; ++n) {
      float largest = 0;
      for (int64_t k = 0; k < K; ++k) largest = std::max(largest, std::fabs(weight[n * K + k]));
      float inverse = largest > 0 ? 127 / largest : 0.f;
      scale[n] = largest / 127;
      if (!std::all_of(weight + n * K, weight + (n + 1) * K, [](float w1) { return std::isfinite(w1); })) {
        scale[n] = std::numeric_limits<float>::quiet_NaN();  // the whole channel shows it
        inverse = 0;
      }
      for (int64_t k = 0; k < K; ++k) {
        const float scaled = inverse == 0 ? 0.f : weight[n * K + k] * inverse;
        rounded[n * K + k] = static_cast<int8_t>(std::nearbyint(scaled));
      }
    }
    linear->bias_.assign(N, 0.f);
    if (bias != nullptr) linear->bias_.assign(bias, bias + N);
    if (AmxProductTakes(K, /*int8=*/true)) {
      packed.PackTiles(rounded, scale, linear->bias_.data(), N, K);
      packed.scale = packed.zero = at::Tensor();
    } else {
      packed.weight = ReorderInt8(w);
    }
  } else {
    // from_blob takes no const; nothing here writes. The copies own their memory.
    const at::ScalarType torch_type = OperandType(dtype);
    const at::Tensor w = at::from_blob(const_cast<float*>(weight), {N, K}).to(torch_type, false, /*copy=*/true);
    if (dtype == DType::kBFloat16 && AmxProductTakes(K, /*int8=*/false)) {
      packed.PackTiles(w.const_data_ptr(), nullptr, bias, N, K);
    } else {
      packed.weight = Reorder(w, kMaxTileRows);
      if (bias != nullptr) {
        packed.bias = at::from_blob(const_cast<float*>(bias), {N}).to(torch_type, false, /*copy=*/true);
      }
    }
  }
  linear->tile_rows_ = packed.tiled == nullptr ? packed.CachedTiles(N, K) : std::vector<int64_t>{kMaxTileRows};
  return linear;
}

bool Linear::on_tiles() const { return packed_->tiled != nullptr; }

void Linear::RunWhole(const void* x, const float* scales, int64_t rows, After after,
                      const std::function<void(int64_t, int64_t, void*)>& use) const {
  AmxProduct product = packed_->OnTiles(N_, K_);
  product.gelu = after == After::kGelu;
  packed_->RunTiles(product, x, scales, rows, use);
}

void Linear::RunToGroups(const void* x, const float* scales, int64_t rows, int64_t group_width, int64_t group_stride,
                         uint16_t* y) const {
  AmxProduct product = packed_->OnTiles(N_, K_);
  product.row_scale = dtype_ == DType::kInt8 ? scales : nullptr;
  AmxMultiply(product, x, rows, {y, group_width, group_width, group_stride});
}

void Linear::Run(const void* x, int64_t rows, const std::function<void(int64_t, int64_t, void*)>& use) const {
  if (on_tiles()) {
    AmxProduct product = packed_->OnTiles(N_, K_);
    if (dtype_ == DType::kInt8) product.bias = nullptr;  // the caller's to add, once it has applied its row's scale
    return packed_->RunTiles(product, x, /*scales=*/nullptr, rows, use);
  }
  const at::ScalarType type = OperandType(dtype_);
  const auto element = static_cast<int64_t>(c10::elementSize(type));
  for (int64_t row = 0; row < rows;) {
    const int64_t left = rows - row;
    // The smallest tile that holds what is left, unless that wastes much of it: then the largest that is filled.
    auto tile = std::lower_bound(tile_rows_.begin(), tile_rows_.end(), left);
    if (tile == tile_rows_.end() || (tile != tile_rows_.begin() && *tile - left > std::max(left / 8, kSmallTailRows))) {
      --tile;
    }
    char* in = const_cast<char*>(static_cast<const char*>(x)) + row * K_ * element;
    const at::Tensor y = packed_->Product(at::from_blob(in, {*tile, K_}, type));
    use(row, std::min(*tile, left), y.mutable_data_ptr());
    row += *tile;
  }
}

}  // namespace lion
