// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/linear.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <map>
#include <random>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace lion {
namespace {

constexpr int64_t kTileChoices[] = {16, 32, 64, 128, 256};

at::ScalarType TorchType(DType dtype) { return dtype == DType::kBFloat16 ? at::kBFloat16 : at::kFloat; }

// The prepacked product has no place in ATen's C++ API: it is reached by name.
at::Tensor Reorder(const at::Tensor& weight, int64_t rows) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                             .typed<at::Tensor(const at::Tensor&, std::optional<int64_t>)>();
  return op.call(weight, rows);
}

at::Tensor Product(const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                            c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>)>();
  return op.call(x, packed, bias, "none", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

// Which tile sizes give the same bits for this product. Of the sets that agree, the one with the most sizes, of
// equals the one with the largest tile.
std::vector<int64_t> AgreeingTiles(const at::Tensor& packed, const std::optional<at::Tensor>& bias, int64_t K) {
  std::mt19937 random(0x4C494F4E);
  std::normal_distribution<float> normal;
  std::vector<float> values(Linear::kMaxTileRows * K);
  for (float& v : values) v = normal(random);
  const at::Tensor x = at::from_blob(values.data(), {Linear::kMaxTileRows, K}).to(packed.scalar_type());

  std::vector<std::pair<std::vector<int64_t>, at::Tensor>> sets;  // sizes that agree, and the first one's product
  for (int64_t rows : kTileChoices) {
    // All rows of x through tiles of this size, so that every place in a tile is tried.
    at::Tensor y = at::empty({Linear::kMaxTileRows, packed.size(0)}, packed.scalar_type());
    for (int64_t row = 0; row < Linear::kMaxTileRows; row += rows) {
      y.narrow(0, row, rows).copy_(Product(x.narrow(0, row, rows), packed, bias));
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
std::vector<int64_t> CachedTiles(const at::Tensor& packed, const std::optional<at::Tensor>& bias, int64_t N, int64_t K,
                                 DType dtype) {
  struct Cache {
    absl::Mutex mu;
    std::map<std::tuple<int64_t, int64_t, DType, bool>, std::vector<int64_t>> tiles ABSL_GUARDED_BY(mu);
  };
  static Cache& cache = *new Cache;
  absl::MutexLock lock(&cache.mu);
  std::vector<int64_t>& tiles = cache.tiles[{N, K, dtype, bias.has_value()}];
  if (tiles.empty()) tiles = AgreeingTiles(packed, bias, K);
  return tiles;
}

}  // namespace

struct Linear::Packed {
  at::Tensor weight;
  std::optional<at::Tensor> bias;
};

Linear::~Linear() = default;

std::unique_ptr<Linear> Linear::Pack(const float* weight, const float* bias, int64_t N, int64_t K, DType dtype) {
  std::unique_ptr<Linear> linear(new Linear);
  linear->N_ = N;
  linear->K_ = K;
  linear->dtype_ = dtype;
  linear->packed_ = std::make_unique<Packed>();
  // from_blob takes no const; nothing here writes. The copies own their memory.
  const at::Tensor w = at::from_blob(const_cast<float*>(weight), {N, K}).to(TorchType(dtype), false, /*copy=*/true);
  linear->packed_->weight = Reorder(w, kMaxTileRows);
  if (bias != nullptr) {
    linear->packed_->bias = at::from_blob(const_cast<float*>(bias), {N}).to(TorchType(dtype), false, /*copy=*/true);
  }
  linear->tile_rows_ = CachedTiles(linear->packed_->weight, linear->packed_->bias, N, K, dtype);
  return linear;
}

void Linear::Run(const void* x, int64_t rows, const std::function<void(int64_t, int64_t, const void*)>& use) const {
  const int64_t element = dtype_ == DType::kBFloat16 ? 2 : 4;
  for (int64_t row = 0; row < rows;) {
    const int64_t left = rows - row;
    auto fits = std::lower_bound(tile_rows_.begin(), tile_rows_.end(), left);
    const int64_t tile = fits == tile_rows_.end() ? tile_rows_.back() : *fits;
    char* in = const_cast<char*>(static_cast<const char*>(x)) + row * K_ * element;
    const at::Tensor y = Product(at::from_blob(in, {tile, K_}, TorchType(dtype_)), packed_->weight, packed_->bias);
    use(row, std::min(tile, left), y.const_data_ptr());
    row += tile;
  }
}

}  // namespace lion
