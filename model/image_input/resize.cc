// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/image_input/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace lion {
namespace {

// Weights are fixed-point numbers with so many bits behind the point: 32 less 8 of a sample and 2 for sums beyond it.
constexpr int kPrecisionBits = 22;

double Bilinear(double x) { return std::max(1.0 - std::abs(x), 0.0); }

double Bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double Sinc(double x) { return x == 0.0 ? 1.0 : std::sin(x * M_PI) / (x * M_PI); }
double Lanczos(double x) { return -3.0 <= x && x < 3.0 ? Sinc(x) * Sinc(x / 3) : 0.0; }

struct FilterShape {
  double support;  // zero beyond
  double (*weight)(double);
};

FilterShape ShapeOf(Filter filter) {
  switch (filter) {
    case Filter::kBilinear:
      return {1.0, Bilinear};
    case Filter::kBicubic:
      return {2.0, Bicubic};
    case Filter::kLanczos:
      break;
  }
  return {3.0, Lanczos};
}

// One direction: of which input samples, and how much of each, an output sample is made.
struct Taps {
  int64_t begin = 0;  // the output samples [begin, end) of the window are inside of the resized picture
  int64_t end = 0;
  std::vector<int64_t> first;    // by output sample from begin on: its first input sample
  std::vector<int64_t> count;    // and how many there are
  std::vector<int32_t> weights;  // (end - begin, max_count)
  int64_t max_count = 0;

  int64_t size() const { return end - begin; }
  const int32_t* of(int64_t i) const { return weights.data() + i * max_count; }
  int64_t input_begin() const { return *std::min_element(first.begin(), first.end()); }
  int64_t input_end() const {
    int64_t last = 0;
    for (size_t i = 0; i < first.size(); ++i) last = std::max(last, first[i] + count[i]);
    return last;
  }
};

// As Pillow does where a filter begins and ends: a sum that itself rounds up counts, as it would not for std::lround.
// NOLINTNEXTLINE(bugprone-incorrect-roundings)
int64_t RoundAsPillow(double x) { return static_cast<int64_t>(x + 0.5); }

// The window's samples [offset, offset + length) of out_size made of in_size.
Taps MakeTaps(int64_t in_size, int64_t out_size, int64_t offset, int64_t length, FilterShape filter) {
  Taps taps;
  taps.begin = std::clamp<int64_t>(-offset, 0, length);
  taps.end = std::clamp<int64_t>(out_size - offset, taps.begin, length);
  const auto num = static_cast<size_t>(taps.size());
  if (in_size == out_size) {  // nothing to filter in this direction
    taps.max_count = 1;
    taps.weights.assign(num, 1 << kPrecisionBits);
    taps.count.assign(num, 1);
    for (int64_t i = taps.begin; i < taps.end; ++i) taps.first.push_back(offset + i);
    return taps;
  }
  const double scale = static_cast<double>(in_size) / static_cast<double>(out_size);
  const double stretch = std::max(scale, 1.0);
  const double support = filter.support * stretch;
  taps.max_count = std::min(in_size, static_cast<int64_t>(std::ceil(support)) * 2 + 1);
  taps.weights.assign(num * static_cast<size_t>(taps.max_count), 0);
  std::vector<double> exact(static_cast<size_t>(taps.max_count));
  for (int64_t i = taps.begin; i < taps.end; ++i) {
    const double center = (static_cast<double>(offset + i) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(RoundAsPillow(center - support), 0);
    const int64_t count = std::min(RoundAsPillow(center + support), in_size) - first;
    double sum = 0.0;
    for (int64_t j = 0; j < count; ++j) {
      exact[j] = filter.weight((static_cast<double>(j + first) - center + 0.5) * (1.0 / stretch));
      sum += exact[j];
    }
    int32_t* weights = taps.weights.data() + (i - taps.begin) * taps.max_count;
    for (int64_t j = 0; j < count; ++j) {
      const double weight = (sum != 0.0 ? exact[j] / sum : exact[j]) * (1 << kPrecisionBits);
      weights[j] = static_cast<int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    taps.first.push_back(first);
    taps.count.push_back(count);
  }
  return taps;
}

// Sums begin at half a unit, so that this rounds.
constexpr int32_t kHalf = 1 << (kPrecisionBits - 1);
uint8_t Sample(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255)); }

// One input row (width, 3) to (taps.size(), 3).
void FilterRow(const uint8_t* in, const Taps& taps, uint8_t* out) {
  for (int64_t i = 0; i < taps.size(); ++i, out += 3) {
    const uint8_t* from = in + 3 * taps.first[i];
    const int32_t* weights = taps.of(i);
    int32_t red = kHalf;
    int32_t green = kHalf;
    int32_t blue = kHalf;
    for (int64_t j = 0; j < taps.count[i]; ++j, from += 3) {
      red += from[0] * weights[j];
      green += from[1] * weights[j];
      blue += from[2] * weights[j];
    }
    out[0] = Sample(red);
    out[1] = Sample(green);
    out[2] = Sample(blue);
  }
}

}  // namespace

Picture ResizedWindow(const Picture& picture, int64_t width, int64_t height, Filter filter, const Window& window) {
  const FilterShape shape = ShapeOf(filter);
  const Taps across = MakeTaps(picture.width, width, window.x, window.width, shape);
  const Taps down = MakeTaps(picture.height, height, window.y, window.height, shape);
  Picture out = Picture::OfSize(window.width, window.height);
  if (across.size() < window.width || down.size() < window.height) {
    std::memset(out.rgb.get(), 0, static_cast<size_t>(window.width * window.height * 3));
  }
  if (across.size() == 0 || down.size() == 0) return out;

  // Of the rows that the second pass reads, and of no others.
  const int64_t first_row = down.input_begin();
  const int64_t row_bytes = across.size() * 3;
  const int64_t num_rows = down.input_end() - first_row;
  const auto narrow = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(num_rows * row_bytes));
  for (int64_t y = 0; y < num_rows; ++y) FilterRow(picture.row(first_row + y), across, narrow.get() + y * row_bytes);

  std::vector<int32_t> sums(static_cast<size_t>(row_bytes));
  for (int64_t i = 0; i < down.size(); ++i) {
    std::fill(sums.begin(), sums.end(), kHalf);
    for (int64_t j = 0; j < down.count[i]; ++j) {
      const uint8_t* from = narrow.get() + (down.first[i] - first_row + j) * row_bytes;
      const int32_t weight = down.of(i)[j];
      for (int64_t b = 0; b < row_bytes; ++b) sums[b] += from[b] * weight;
    }
    uint8_t* to = out.row(down.begin + i) + 3 * across.begin;
    for (int64_t b = 0; b < row_bytes; ++b) to[b] = Sample(sums[b]);
  }
  return out;
}

}  // namespace lion
