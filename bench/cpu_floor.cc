// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "bench/cpu_floor.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "model/linear.h"

namespace lion {
namespace {

enum class Route { kMkl, kPacked, kIntMm };

const char* Describe(Route route) {
  switch (route) {
    case Route::kMkl:
      return "MKL";
    case Route::kPacked:
      return "oneDNN packed";
    case Route::kIntMm:
      return "_int_mm";
  }
  return "";
}

constexpr int64_t kTiles[] = {256, 512, 1024};

// The packed product as the engine calls it, and in int8 with the same bfloat16 result.
at::Tensor PackedProduct(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                            c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>)>();
  return op.call(x, w, bias, "none", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

at::Tensor PackedInt8Product(const at::Tensor& x, const at::Tensor& w, const at::Tensor& scale,
                             const at::Tensor& zero) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("onednn::qlinear_pointwise", "")
          .typed<at::Tensor(at::Tensor, double, int64_t, at::Tensor, at::Tensor, at::Tensor, std::optional<at::Tensor>,
                            double, int64_t, std::optional<at::ScalarType>, std::string_view,
                            c10::List<std::optional<at::Scalar>>, std::string_view)>();
  return op.call(x, 1.0, Linear::Int8Offset(), w, scale, zero, std::nullopt, 1.0, 0, at::kBFloat16, "none",
                 c10::List<std::optional<at::Scalar>>(), "");
}

}  // namespace

struct CpuFloor::Products {
  struct Product {
    at::Tensor weight;
    at::Tensor bias;   // or scale
    at::Tensor zero;   // int8, packed
    at::Tensor input;  // (largest tile, K), shared by all layers
    int shape = 0;     // of the four
  };
  DType dtype = DType::kFloat32;
  Route route = Route::kPacked;
  std::vector<Product> products;
  std::vector<at::Tensor> sums;  // _int_mm: (largest tile, N) a shape

  void Pack(const ModelSize& size, DType type, Route by) {
    dtype = type;
    route = by;
    const int64_t E = size.width;
    const std::pair<int64_t, int64_t> shapes[] = {{3 * E, E}, {E, E}, {4 * E, E}, {E, 4 * E}};
    const int64_t rows = *std::max_element(std::begin(kTiles), std::end(kTiles));
    std::vector<at::Tensor> inputs;
    for (const auto& [N, K] : shapes) {
      at::Tensor x = at::randn({rows, K});
      if (dtype == DType::kBFloat16) x = x.to(at::kBFloat16);
      if (dtype == DType::kInt8) {
        x = (x * 30).clamp(-127, 127).to(at::kChar);
        if (route == Route::kPacked && Linear::Int8Offset() != 0) x = (x.to(at::kInt) + 128).to(at::kByte);
        sums.push_back(at::empty({rows, N}, at::kInt));
      }
      inputs.push_back(x);
    }
    static const auto reorder = c10::Dispatcher::singleton()
                                    .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                                    .typed<at::Tensor(const at::Tensor&, std::optional<int64_t>)>();
    static const auto reorder_int8 = c10::Dispatcher::singleton()
                                         .findSchemaOrThrow("onednn::qlinear_prepack", "")
                                         .typed<at::Tensor(at::Tensor, std::optional<c10::List<int64_t>>)>();
    for (int64_t n = 0; n < size.num_layers; ++n) {
      for (int i = 0; i < 4; ++i) {
        const auto& [N, K] = shapes[i];
        Product p;
        p.shape = i;
        p.input = inputs[i];
        at::Tensor w = at::randn({N, K}) * 0.05;
        p.bias = at::ones({N});
        if (dtype == DType::kBFloat16) {
          w = w.to(at::kBFloat16);
          p.bias = p.bias.to(at::kBFloat16);
        }
        if (dtype == DType::kInt8) {
          w = (w * 600).clamp(-127, 127).to(at::kChar);
          p.zero = at::zeros({N}, at::kInt);
          p.weight = route == Route::kIntMm ? w.t() : reorder_int8.call(w, c10::List<int64_t>({rows, K}));
        } else {
          p.weight = route == Route::kMkl ? w : reorder.call(w, rows);
        }
        products.push_back(std::move(p));
      }
    }
  }

  // One tile through all layers.
  void Run(int64_t rows) {
    for (const Product& p : products) {
      const at::Tensor x = p.input.narrow(0, 0, rows);
      if (route == Route::kIntMm) {
        at::Tensor out = sums[p.shape].narrow(0, 0, rows);
        at::_int_mm_out(out, x, p.weight);
      } else if (dtype == DType::kInt8) {
        PackedInt8Product(x, p.weight, p.bias, p.zero);
      } else if (route == Route::kPacked) {
        PackedProduct(x, p.weight, p.bias);
      } else {
        at::linear(x, p.weight, p.bias);
      }
    }
  }
};

CpuFloor::CpuFloor(const ModelSize& size, DType dtype, ComputePool* pool) : size_(size), pool_(pool) {
  std::vector<Route> routes = {Route::kPacked};
  if (dtype == DType::kInt8) routes.push_back(Route::kIntMm);
  if (dtype == DType::kFloat32) routes.push_back(Route::kMkl);
  Route best_route = Route::kPacked;
  double best = 0;
  const absl::Status status = pool->Run(1, [&](int, int) {
    for (Route route : routes) {
      Products products;
      products.Pack({size.width, 2}, dtype, route);
      for (int64_t tile : kTiles) {
        products.Run(tile);
        double seconds = 1e9;
        for (int repeat = 0; repeat < 7; ++repeat) {
          const auto start = std::chrono::steady_clock::now();
          products.Run(tile);
          seconds = std::min(seconds, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        }
        const double speed = static_cast<double>(tile) / seconds;
        if (speed > best) {
          best = speed;
          best_route = route;
          tile_ = tile;
        }
      }
    }
    auto all = std::make_unique<Products>();
    all->Pack(size, dtype, best_route);
    for (int i = 0; i < pool->num_threads(); ++i) workers_.push_back(std::make_unique<Products>(*all));
    for (const auto& worker : workers_) {
      for (at::Tensor& sum : worker->sums) sum = sum.clone();
    }
  });
  if (!status.ok()) {
    std::fprintf(stderr, "floor: %s\n", status.ToString().c_str());
    std::exit(1);
  }
  route_ = std::string(Describe(best_route)) + ", tiles of " + std::to_string(tile_);
}

CpuFloor::~CpuFloor() = default;

int64_t CpuFloor::Run(int64_t num_tokens) {
  const int64_t threads = pool_->num_threads();
  const int64_t tiles = std::max<int64_t>(1, (num_tokens + tile_ * threads - 1) / (tile_ * threads)) * threads;
  const absl::Status status =
      pool_->Run(static_cast<int>(tiles), [this](int worker, int) { workers_[worker]->Run(tile_); });
  if (!status.ok()) {
    std::fprintf(stderr, "floor: %s\n", status.ToString().c_str());
    std::exit(1);
  }
  return tiles * tile_;
}

double CpuFloor::operations_per_token() const {
  return 2.0 * 12 * static_cast<double>(size_.width * size_.width * size_.num_layers);
}

}  // namespace lion
