// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cuda/attention_launch.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "model/kernels/cpu/attention_reference.h"
#include "tests/model/cuda_test.h"

namespace lion::cuda {
namespace {

// What a row's keys are weighed by.
enum class Decay {
  kNone,    // LION-LIT
  kHead,    // LION-D: one a head, some near 1 and some near 0
  kSlow,    // LION-S: a in 0.9 ... 1, some exactly 1
  kFast,    // a in 0 ... 1
  kClosed,  // now and then 0 or 1, as far as fp32 goes
};

std::string Name(Decay decay) {
  constexpr const char* kNames[] = {"none", "head", "slow", "fast", "closed"};
  return kNames[static_cast<int>(decay)];
}

struct Problem {
  int H = 0;
  int D = 0;           // stored width
  int true_width = 0;  // columns past it are zero
  ElementType type = ElementType::kBFloat16;
  Decay decay = Decay::kNone;
  std::vector<PlanRow> rows;

  std::vector<int64_t> starts;  // one a row, and the number of tokens
  std::vector<float> qkv;       // (T, 3, H, D), as the type holds them
  std::vector<float> log_a;     // (T, H), (H) or empty

  int64_t T() const { return starts.back(); }
  bool masked() const { return decay != Decay::kNone; }
  float scale() const { return 1.f / std::sqrt(static_cast<float>(true_width)); }
  int64_t log_a_stride() const { return decay == Decay::kHead ? 0 : H; }

  // A row's slice, with other rows' values nowhere near.
  std::vector<float> Slice(size_t row) const {
    return {qkv.begin() + starts[row] * 3 * H * D, qkv.begin() + starts[row + 1] * 3 * H * D};
  }
};

float LogA(Decay decay, float uniform, int index) {
  switch (decay) {
    case Decay::kNone:
      return 0;
    case Decay::kHead:
      return index % 3 == 0 ? -1e-4f : index % 3 == 1 ? -0.02f : -3.f;
    case Decay::kSlow:
      return uniform < 0.1f ? 0.f : -0.1f * uniform;
    case Decay::kFast:
      return -6 * uniform;
    case Decay::kClosed:
      return uniform < 0.1f ? -80.f : uniform < 0.2f ? -16.f : uniform < 0.5f ? 0.f : -0.01f * uniform;
  }
  return 0;
}

Problem MakeProblem(ElementType type, int H, int D, int true_width, Decay decay, std::vector<PlanRow> rows,
                    uint32_t seed, float size = 1) {
  Problem p;
  p.H = H;
  p.D = D;
  p.true_width = true_width;
  p.type = type;
  p.decay = decay;
  p.rows = std::move(rows);
  int64_t T = 0;
  for (const PlanRow& row : p.rows) {
    p.starts.push_back(T);
    T += row.L;
  }
  p.starts.push_back(T);
  p.qkv = Rounded(NormalValues(T * 3 * H * D, seed, size), type);
  for (size_t i = 0; i < p.qkv.size(); ++i) {
    if (static_cast<int>(i % D) >= true_width) p.qkv[i] = 0;
  }
  std::mt19937 random(seed + 1);
  std::uniform_real_distribution<float> uniform(0, 1);
  if (p.masked()) {
    p.log_a.resize(decay == Decay::kHead ? H : T * H);
    for (size_t i = 0; i < p.log_a.size(); ++i) p.log_a[i] = LogA(decay, uniform(random), static_cast<int>(i));
  }
  return p;
}

// Grids for a larger plan than the one there is.
struct Surplus {
  int segments = 0;
  int runs = 0;
  int states = 0;
};

std::vector<float> Attend(const Problem& p, const Surplus& surplus = {}, bool y_float32 = false) {
  const AttentionPlan plan = PlanAttention(p.rows, p.masked());
  const DeviceValues qkv(p.qkv, p.type);
  const DeviceBuffer segments = OnDevice(plan.segments);
  const DeviceBuffer runs = OnDevice(plan.runs);
  const DeviceBuffer counts = OnDevice(
      std::vector<int32_t>{static_cast<int32_t>(plan.segments.size()), static_cast<int32_t>(plan.runs.size())});
  DeviceBuffer log_a;
  if (p.masked()) log_a = OnDevice(p.log_a);
  const int64_t size = p.T() * p.H * p.D;
  const DeviceValues y = DeviceValues::Poisoned(size, y_float32 ? ElementType::kFloat32 : p.type);
  const DeviceValues plain_y = DeviceValues::Poisoned(size, ElementType::kFloat32);

  AttentionParams params;
  params.type = p.type;
  params.H = p.H;
  params.D = p.D;
  params.scale = p.scale();
  params.T = p.T();
  params.qkv = qkv.data();
  if (p.masked()) params.log_a = log_a.At<float>(0);
  params.log_a_token_stride = p.log_a_stride();
  params.y = y.data();
  params.y_float32 = y_float32;
  params.segments = segments.At<Segment>(0);
  params.runs = runs.At<StateRun>(0);
  params.counts = counts.At<int32_t>(0);
  params.max_segments = static_cast<int>(plan.segments.size()) + surplus.segments;
  params.max_runs = static_cast<int>(plan.runs.size()) + surplus.runs;
  params.max_states = plan.num_states + surplus.states;
  params.plain = plan.plain;
  params.plain_y = plain_y.floats();
  const DeviceValues states = DeviceValues::Poisoned(
      AttentionStateBytes(params.max_states, p.H, p.D) / static_cast<int64_t>(sizeof(float)), ElementType::kFloat32);
  params.states = states.data();
  const absl::Status status = LaunchAttention(params, nullptr);
  EXPECT_TRUE(status.ok()) << status;
  return y.Read();
}

// work(i) for i < n on all cores.
void ForEach(int64_t n, const std::function<void(int64_t)>& work) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::max(1U, std::thread::hardware_concurrency()); ++t) {
    threads.emplace_back([&] {
      for (int64_t i = next++; i < n; i = next++) work(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// One head of one row, dense.
struct Head {
  int64_t L = 0;
  int D = 0;
  std::vector<float> q, k, v;
  std::vector<double> log_a;
};

Head HeadOf(const Problem& p, size_t row, int head) {
  Head h;
  h.L = p.rows[row].L;
  h.D = p.D;
  h.log_a.assign(h.L, 0.0);
  std::vector<float>* parts[] = {&h.q, &h.k, &h.v};
  for (int part = 0; part < 3; ++part) parts[part]->resize(h.L * p.D);
  for (int64_t i = 0; i < h.L; ++i) {
    const int64_t t = p.starts[row] + i;
    for (int part = 0; part < 3; ++part) {
      const float* from = p.qkv.data() + ((t * 3 + part) * p.H + head) * p.D;
      std::copy(from, from + p.D, parts[part]->begin() + i * p.D);
    }
    if (p.masked()) h.log_a[i] = p.log_a[t * p.log_a_stride() + head];
  }
  return h;
}

// The answer in fp64, by the recurrence.
std::vector<double> Reference(const Problem& p, size_t row, int head) {
  const Head h = HeadOf(p, row, head);
  std::vector<float> log_a(h.log_a.begin(), h.log_a.end());
  lion::AttentionParams params;
  params.L = h.L;
  params.D = h.D;
  params.scale = p.scale();
  params.q = h.q.data();
  params.k = h.k.data();
  params.v = h.v.data();
  params.stride = h.D;
  params.log_a = log_a.data();
  params.log_a_stride = 1;
  std::vector<double> y(h.L * h.D);
  AttendHeadRecurrentReference(params, y.data());
  return y;
}

float Round(float x, ElementType type) { return Rounded({x}, type).front(); }

// What torch's plain form gives: scores, masked scores and both products in the type with fp32 accumulators, M in fp32.
// Rows of more than kPlainTokens tokens as chunks of 64 with fp32 states, whose products with q are in the type; the
// recurrent form as chunks of 1.
constexpr int64_t kPlainTokens = 1100;

std::vector<float> PlainForm(const Problem& p, size_t row, int head) {
  const Head h = HeadOf(p, row, head);
  const int D = h.D;
  const bool recurrent = p.rows[row].mode == ComputeMode::kRecurrent;
  const bool chunked = recurrent || h.L > kPlainTokens;
  const int64_t C = recurrent ? 1 : chunked ? 64 : h.L;
  std::vector<double> sum(h.L + 1, 0.0);
  for (int64_t i = 0; i < h.L; ++i) sum[i + 1] = sum[i] + h.log_a[i];
  std::vector<float> y(h.L * D, 0.f);
  std::vector<float> weights(C);
  std::vector<float> out(D);
  for (int64_t i = 0; i < h.L; ++i) {
    const int64_t s = i / C * C;
    const int64_t e = std::min(h.L, s + C);
    for (int64_t j = s; j < e; ++j) {
      float score = 0;
      for (int d = 0; d < D; ++d) score += h.q[i * D + d] * h.k[j * D + d];
      const double log_m = j < i ? sum[i] - sum[j] : j > i ? sum[j + 1] - sum[i + 1] : 0;
      const float scaled = Round(Round(score, p.type) * p.scale(), p.type);
      weights[j - s] = Round(scaled * static_cast<float>(std::exp(log_m)), p.type);
    }
    std::fill(out.begin(), out.end(), 0.f);
    for (int64_t j = s; j < e; ++j) {
      for (int d = 0; d < D; ++d) out[d] += weights[j - s] * h.v[j * D + d];
    }
    for (int d = 0; d < D; ++d) y[i * D + d] = Round(out[d], p.type);
  }
  if (!chunked) return y;
  std::vector<float> state(D * D);
  std::vector<float> rounded(D * D);
  for (const bool backward : {false, true}) {
    std::fill(state.begin(), state.end(), 0.f);
    const int64_t chunks = (h.L + C - 1) / C;
    for (int64_t n = 0; n < chunks; ++n) {
      const int64_t s = (backward ? chunks - 1 - n : n) * C;
      const int64_t e = std::min(h.L, s + C);
      for (int i = 0; i < D * D; ++i) rounded[i] = Round(state[i], p.type);
      for (int64_t i = s; i < e; ++i) {
        const auto decay = static_cast<float>(std::exp(backward ? sum[e] - sum[i + 1] : sum[i] - sum[s]));
        for (int c = 0; c < D; ++c) {
          float inter = 0;
          for (int d = 0; d < D; ++d) inter += h.q[i * D + d] * rounded[d * D + c];
          float& at = y[i * D + c];
          at = Round(at + decay * p.scale() * Round(inter, p.type), p.type);
        }
      }
      const auto all = static_cast<float>(std::exp(sum[e] - sum[s]));
      for (float& x : state) x *= all;
      for (int64_t j = s; j < e; ++j) {
        const auto decay = static_cast<float>(std::exp(backward ? sum[j + 1] - sum[s] : sum[e] - sum[j]));
        for (int d = 0; d < D; ++d) {
          const float k = Round(h.k[j * D + d] * decay, p.type);
          for (int c = 0; c < D; ++c) state[d * D + c] += k * h.v[j * D + c];
        }
      }
    }
  }
  return y;
}

struct Error {
  double max = 0;
  double largest = 0;  // absolute value of the truth
  bool finite = true;

  void Add(const Error& other) {
    max = std::max(max, other.max);
    largest = std::max(largest, other.largest);
    finite = finite && other.finite;
  }
};

template <class Values>
void Measure(const Values& values, const std::vector<double>& truth, const std::function<int64_t(int64_t)>& at,
             Error* error, double* squares, int64_t* count) {
  for (size_t i = 0; i < truth.size(); ++i) {
    const double value = values[at(static_cast<int64_t>(i))];
    const double difference = std::fabs(value - truth[i]);
    error->finite = error->finite && std::isfinite(value);
    error->max = std::max(error->max, difference);
    error->largest = std::max(error->largest, std::fabs(truth[i]));
    *squares += difference * difference;
  }
  *count += static_cast<int64_t>(truth.size());
}

double Ulp(ElementType type) {
  return type == ElementType::kBFloat16  ? 1.0 / 128
         : type == ElementType::kFloat16 ? 1.0 / 1024
                                         : std::numeric_limits<float>::epsilon();
}

// Every row's error is at most twice the plain form's in the same type, and one ulp at the scale of the
// answers because that can be 0.
void ExpectRight(const Problem& p, const std::vector<float>& y, const std::string& what) {
  struct Measured {
    Error kernel, plain;
    double kernel_squares = 0, plain_squares = 0;
    int64_t kernel_count = 0, plain_count = 0;

    void Add(const Measured& other) {
      kernel.Add(other.kernel);
      plain.Add(other.plain);
      kernel_squares += other.kernel_squares, plain_squares += other.plain_squares;
      kernel_count += other.kernel_count, plain_count += other.plain_count;
    }
  };
  std::vector<Measured> measured(p.rows.size() * p.H);
  ForEach(static_cast<int64_t>(measured.size()), [&](int64_t i) {
    const auto row = static_cast<size_t>(i / p.H);
    const int head = static_cast<int>(i % p.H);
    Measured& m = measured[i];
    const std::vector<double> truth = Reference(p, row, head);
    const std::vector<float> plain = PlainForm(p, row, head);
    Measure(
        plain, truth, [](int64_t e) { return e; }, &m.plain, &m.plain_squares, &m.plain_count);
    auto at = [&](int64_t e) { return ((p.starts[row] + e / p.D) * p.H + head) * p.D + e % p.D; };
    Measure(y, truth, at, &m.kernel, &m.kernel_squares, &m.kernel_count);
  });
  double worst = 0;
  for (size_t row = 0; row < p.rows.size(); ++row) {
    Measured m = measured[row * p.H];
    for (int head = 1; head < p.H; ++head) m.Add(measured[row * p.H + head]);
    const double kernel_rms = std::sqrt(m.kernel_squares / static_cast<double>(m.kernel_count));
    const double plain_rms = std::sqrt(m.plain_squares / static_cast<double>(m.plain_count));
    const double ulp = Ulp(p.type) * m.kernel.largest;
    ASSERT_TRUE(m.kernel.finite) << what << " L " << p.rows[row].L;
    EXPECT_LE(kernel_rms, 2 * plain_rms + ulp) << what << " L " << p.rows[row].L;
    EXPECT_LE(m.kernel.max, 2 * m.plain.max + ulp) << what << " L " << p.rows[row].L;
    if (plain_rms > 0) worst = std::max(worst, kernel_rms / plain_rms);
  }
  testing::Test::RecordProperty("worst_rms_ratio", std::to_string(worst));
}

constexpr ComputeMode kModes[] = {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent};

// ------------------------------------------------------------------------------------------------------------ errors

class CudaAttentionTest : public OnCudaDevice<testing::TestWithParam<std::tuple<ElementType, int, Decay>>> {
 protected:
  ElementType type() const { return std::get<0>(GetParam()); }
  int D() const { return std::get<1>(GetParam()); }
  Decay decay() const { return std::get<2>(GetParam()); }
  // Some heads are narrower than they are stored.
  int true_width() const { return decay() == Decay::kFast ? D() - 8 : D(); }
};

// Borders of tiles, pairs and segments, all in one batch.
constexpr int64_t kLengths[] = {1,   2,   17,  63,  64,  65,  100, 127, 128, 129, 191,  192, 193,
                                255, 256, 257, 300, 384, 511, 512, 513, 640, 700, 1024, 1025};

TEST_P(CudaAttentionTest, IsRightInEveryForm) {
  for (const ComputeMode mode : kModes) {
    std::vector<PlanRow> rows;
    for (const int64_t L : kLengths) {
      if (mode == ComputeMode::kRecurrent && L > 300) continue;
      rows.push_back({L, mode, 0});
    }
    const Problem p = MakeProblem(type(), 3, D(), true_width(), decay(), rows, 11);
    ExpectRight(p, Attend(p), "mode " + std::to_string(static_cast<int>(mode)));
  }
}

TEST_P(CudaAttentionTest, LongRowsAreRight) {
  // 512-token segments with and without a scan, and 1,024-token ones; in float32 the plain kernel, which has none.
  const Problem p = MakeProblem(type(), 3, D(), true_width(), decay(),
                                {{4096, ComputeMode::kChunked, 0},
                                 {5000, ComputeMode::kChunked, 0},
                                 {130, ComputeMode::kParallel, 0},
                                 {9300, ComputeMode::kChunked, 0}},
                                12);
  ExpectRight(p, Attend(p), "long");
}

std::string CaseName(const testing::TestParamInfo<std::tuple<ElementType, int, Decay>>& test) {
  return TypeName(std::get<0>(test.param)) + "_" + std::to_string(std::get<1>(test.param)) + "_" +
         Name(std::get<2>(test.param));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, CudaAttentionTest,
    testing::Values(
        std::tuple(ElementType::kBFloat16, 64, Decay::kNone), std::tuple(ElementType::kBFloat16, 64, Decay::kHead),
        std::tuple(ElementType::kBFloat16, 64, Decay::kSlow), std::tuple(ElementType::kBFloat16, 64, Decay::kFast),
        std::tuple(ElementType::kBFloat16, 64, Decay::kClosed), std::tuple(ElementType::kBFloat16, 32, Decay::kNone),
        std::tuple(ElementType::kBFloat16, 32, Decay::kSlow), std::tuple(ElementType::kBFloat16, 32, Decay::kFast),
        std::tuple(ElementType::kBFloat16, 128, Decay::kNone), std::tuple(ElementType::kBFloat16, 128, Decay::kClosed),
        std::tuple(ElementType::kFloat16, 64, Decay::kNone), std::tuple(ElementType::kFloat16, 64, Decay::kHead),
        std::tuple(ElementType::kFloat16, 64, Decay::kClosed), std::tuple(ElementType::kFloat16, 32, Decay::kSlow),
        std::tuple(ElementType::kFloat16, 128, Decay::kSlow), std::tuple(ElementType::kFloat32, 64, Decay::kNone),
        std::tuple(ElementType::kFloat32, 64, Decay::kClosed), std::tuple(ElementType::kFloat32, 32, Decay::kHead),
        std::tuple(ElementType::kFloat32, 128, Decay::kFast)),
    CaseName);

// -------------------------------------------------------------------------------------------------------------- bits

class CudaAttentionBitsTest : public OnCudaDevice<testing::TestWithParam<std::tuple<ElementType, int, Decay>>> {
 protected:
  ElementType type() const { return std::get<0>(GetParam()); }
  int D() const { return std::get<1>(GetParam()); }
  Decay decay() const { return std::get<2>(GetParam()); }

  // One row of p alone.
  static std::vector<float> Alone(const Problem& p, size_t row) {
    Problem one = p;
    one.rows = {p.rows[row]};
    one.qkv = p.Slice(row);
    one.starts = {0, p.rows[row].L};
    if (p.masked() && p.decay != Decay::kHead) {
      one.log_a.assign(p.log_a.begin() + p.starts[row] * p.H, p.log_a.begin() + p.starts[row + 1] * p.H);
    }
    return Attend(one);
  }
  static std::vector<float> RowOf(const Problem& p, const std::vector<float>& y, size_t row) {
    return {y.begin() + p.starts[row] * p.H * p.D, y.begin() + p.starts[row + 1] * p.H * p.D};
  }
};

TEST_P(CudaAttentionBitsTest, ARowIsTheSameAloneAndInAnyBatch) {
  std::vector<PlanRow> rows;
  for (const ComputeMode mode : {ComputeMode::kParallel, ComputeMode::kChunked}) {
    for (const int64_t L : {1, 64, 70, 128, 129, 300, 512, 600, 1300, 4700}) {
      if (mode == ComputeMode::kParallel && L > 1300) continue;
      rows.push_back({L, mode, 0});
    }
  }
  rows.push_back({33, ComputeMode::kRecurrent, 0});
  std::mt19937 random(5);
  std::shuffle(rows.begin(), rows.end(), random);
  const Problem p = MakeProblem(type(), 2, D(), D(), decay(), rows, 21);
  const std::vector<float> y = Attend(p);
  EXPECT_EQ(Attend(p), y) << "a second time";
  EXPECT_EQ(Attend(p, {37, 5, 9}), y) << "in a grid for a larger plan";
  for (size_t row = 0; row < rows.size(); ++row) {
    EXPECT_EQ(RowOf(p, y, row), Alone(p, row)) << "L " << rows[row].L << " mode " << static_cast<int>(rows[row].mode);
  }
}

TEST_P(CudaAttentionBitsTest, EveryOffsetModulo64) {
  const std::vector<PlanRow> pair = {{1, ComputeMode::kChunked, 0}, {150, ComputeMode::kChunked, 0}};
  Problem p = MakeProblem(type(), 1, D(), D(), decay(), pair, 22);
  const std::vector<float> expected = Alone(p, 1);
  const std::vector<float> row = p.Slice(1);
  const std::vector<float> row_log_a = p.log_a;
  for (int64_t offset = 1; offset <= 64; offset += 7) {
    Problem shifted = MakeProblem(type(), 1, D(), D(), decay(), {{offset, ComputeMode::kParallel, 0}, pair[1]}, 23);
    std::copy(row.begin(), row.end(), shifted.qkv.begin() + offset * 3 * D());
    if (shifted.log_a.size() > 1) std::copy(row_log_a.begin() + 1, row_log_a.end(), shifted.log_a.begin() + offset);
    EXPECT_EQ(RowOf(shifted, Attend(shifted), 1), expected) << offset;
  }
}

TEST_P(CudaAttentionBitsTest, ARowOfNaNLeavesTheOthersAlone) {
  std::vector<PlanRow> rows;
  for (const ComputeMode mode : {ComputeMode::kParallel, ComputeMode::kChunked}) {
    for (const int64_t L : {3, 40, 70, 20, 130, 65, 600, 700, 1}) rows.push_back({L, mode, 0});
  }
  Problem p = MakeProblem(type(), 2, D(), D(), decay(), rows, 24);
  const std::vector<float> good = Attend(p);
  for (size_t row = 1; row < rows.size(); row += 2) {
    const float poison =
        row % 4 == 1 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    std::fill(p.qkv.begin() + p.starts[row] * 3 * p.H * p.D, p.qkv.begin() + p.starts[row + 1] * 3 * p.H * p.D, poison);
    if (p.masked() && p.decay != Decay::kHead) {
      std::fill(p.log_a.begin() + p.starts[row] * p.H, p.log_a.begin() + p.starts[row + 1] * p.H,
                std::numeric_limits<float>::quiet_NaN());
    }
  }
  const std::vector<float> y = Attend(p);
  for (size_t row = 0; row < rows.size(); ++row) {
    const std::vector<float> got = RowOf(p, y, row);
    if (row % 2 == 0) {
      EXPECT_EQ(got, RowOf(p, good, row)) << "row " << row;
    } else {
      EXPECT_TRUE(std::none_of(got.begin(), got.end(), [](float v) { return std::isfinite(v); })) << "row " << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaAttentionBitsTest,
                         testing::Values(std::tuple(ElementType::kBFloat16, 64, Decay::kNone),
                                         std::tuple(ElementType::kBFloat16, 64, Decay::kHead),
                                         std::tuple(ElementType::kBFloat16, 64, Decay::kSlow),
                                         std::tuple(ElementType::kBFloat16, 32, Decay::kSlow),
                                         std::tuple(ElementType::kBFloat16, 128, Decay::kSlow),
                                         std::tuple(ElementType::kFloat16, 64, Decay::kSlow),
                                         std::tuple(ElementType::kFloat16, 128, Decay::kNone),
                                         std::tuple(ElementType::kFloat32, 64, Decay::kSlow)),
                         CaseName);

// ----------------------------------------------------------------------------------------------------------- float16

class CudaAttentionFloat16Test : public OnCudaDevice<> {};

// States beyond 65,504 with answers below.
TEST_F(CudaAttentionFloat16Test, StatesDoNotOverflow) {
  for (const Decay decay : {Decay::kNone, Decay::kSlow}) {
    for (const int D : {32, 64, 128}) {
      Problem p = MakeProblem(ElementType::kFloat16, 2, D, D, decay, {{3000, ComputeMode::kChunked, 0}}, 31);
      for (int64_t i = 0; i < p.T() * 3 * p.H; ++i) {
        const int part = static_cast<int>(i / p.H % 3);
        for (int d = 0; d < D; ++d) {
          float& x = p.qkv[i * D + d];
          x = Round(part == 0 ? x * 1e-3f : std::fabs(x) * 40, p.type);
        }
      }
      double largest = 0;  // of a state without decay
      const Head h = HeadOf(p, 0, 0);
      for (int64_t i = 0; i < h.L; ++i) largest += static_cast<double>(h.k[i * D]) * h.v[i * D];
      EXPECT_GT(largest, 1e6);
      const std::vector<float> y = Attend(p);
      for (int head = 0; head < p.H; ++head) {
        const std::vector<double> truth = Reference(p, 0, head);
        Error error;
        double squares = 0;
        double size = 0;
        int64_t count = 0;
        Measure(
            y, truth, [&](int64_t i) { return (i / D * p.H + head) * D + i % D; }, &error, &squares, &count);
        for (const double v : truth) size += v * v;
        EXPECT_TRUE(error.finite);
        // k, the states, the scores and y are rounded once each.
        EXPECT_LE(std::sqrt(squares), 4 * std::sqrt(size) / 2048) << Name(decay) << " " << D;
      }
    }
  }
}

TEST_F(CudaAttentionFloat16Test, AnswersBeyondItsRangeAreInfiniteOrInFloat32) {
  for (const int D : {32, 64, 128}) {
    Problem p = MakeProblem(ElementType::kFloat16, 2, D, D, Decay::kNone, {{700, ComputeMode::kChunked, 0}}, 32, 8);
    for (float& x : p.qkv) x = std::fabs(x);
    const std::vector<float> narrow = Attend(p);
    EXPECT_TRUE(std::all_of(narrow.begin(), narrow.end(), [](float v) { return std::isinf(v); }));
    const std::vector<float> wide = Attend(p, {}, true);
    for (int head = 0; head < p.H; ++head) {
      const std::vector<double> truth = Reference(p, 0, head);
      for (size_t i = 0; i < truth.size(); ++i) {
        const int64_t at = (static_cast<int64_t>(i) / D * p.H + head) * D + static_cast<int64_t>(i) % D;
        ASSERT_NEAR(wide[at], truth[i], 2e-3 * truth[i]);
      }
    }
  }
}

TEST_F(CudaAttentionFloat16Test, Float32AnswersAreThoseThatAreRounded) {
  for (const int D : {32, 64, 128}) {
    std::vector<PlanRow> rows;
    for (const int64_t L : {1, 70, 129, 300, 1300}) rows.push_back({L, ComputeMode::kChunked, 0});
    for (const int64_t L : {65, 260}) rows.push_back({L, ComputeMode::kParallel, 0});
    rows.push_back({20, ComputeMode::kRecurrent, 0});
    const Problem p = MakeProblem(ElementType::kFloat16, 2, D, D, Decay::kSlow, rows, 33);
    EXPECT_EQ(Rounded(Attend(p, {}, true), ElementType::kFloat16), Attend(p));
  }
}

}  // namespace
}  // namespace lion::cuda
