// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "model/kernels/cpu/attention_amx.h"
#include "model/kernels/cpu/attention_reference.h"
#include "model/kernels/cpu/cpu_features.h"

namespace lion {
namespace {

enum class Decay { kNone, kConstant, kMild, kNearOne, kClosing };

struct Problem {
  int64_t L = 0;
  int D = 0;
  std::vector<float> qkv;    // (L, 3, D)
  std::vector<float> log_a;  // (L)
  std::vector<float> y;      // (L, D)
  AttentionParams params;
};

Problem MakeProblem(int64_t L, int D, Decay decay, uint32_t seed) {
  Problem p;
  p.L = L;
  p.D = D;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  p.qkv.resize(L * 3 * D);
  for (float& x : p.qkv) x = normal(random);
  p.log_a.resize(L);
  for (float& a : p.log_a) {
    switch (decay) {
      case Decay::kNone:
      case Decay::kConstant:
        a = -0.03f;
        break;
      case Decay::kMild:
        a = -0.1f * std::fabs(normal(random));
        break;
      case Decay::kNearOne:
        a = -1e-4f * std::fabs(normal(random));
        break;
      case Decay::kClosing:  // a fourth of the gates as closed as text LION-S closes them
        a = random() % 4 == 0 ? -16.1f : -1e-3f;
        break;
    }
  }
  p.y.assign(L * D, std::numeric_limits<float>::quiet_NaN());
  p.params.L = L;
  p.params.D = D;
  p.params.scale = 1 / std::sqrt(static_cast<float>(D));
  p.params.q = p.qkv.data();
  p.params.k = p.qkv.data() + D;
  p.params.v = p.qkv.data() + 2 * D;
  p.params.stride = 3 * D;
  p.params.log_a = decay == Decay::kNone ? nullptr : p.log_a.data();
  p.params.log_a_stride = decay == Decay::kConstant ? 0 : 1;
  p.params.y = p.y.data();
  p.params.y_stride = D;
  return p;
}

struct Form {
  ComputeMode mode;
  int C;
};
constexpr Form kForms[] = {{ComputeMode::kParallel, 0},  {ComputeMode::kChunked, 1},  {ComputeMode::kChunked, 7},
                           {ComputeMode::kChunked, 32},  {ComputeMode::kChunked, 64}, {ComputeMode::kChunked, 65},
                           {ComputeMode::kChunked, 128}, {ComputeMode::kRecurrent, 0}};

// What fp32 may lose: rounding of L D products, each at most as large as the sum of absolute values of the formula's
// terms, which is taken from a reference run over absolute values.
double Tolerance(Problem p) {
  for (float& x : p.qkv) x = std::fabs(x);
  p.params.q = p.qkv.data();
  p.params.k = p.qkv.data() + p.D;
  p.params.v = p.qkv.data() + 2 * p.D;
  if (p.params.log_a != nullptr) p.params.log_a = p.log_a.data();
  std::vector<double> bound(p.L * p.D);
  AttendHeadReference(p.params, bound.data());
  const double largest = *std::max_element(bound.begin(), bound.end());
  return 4 * std::numeric_limits<float>::epsilon() * largest;
}

class AttentionTest : public testing::TestWithParam<std::tuple<int, Decay>> {};

TEST_P(AttentionTest, AllFormsMatchTheFormula) {
  const auto& [D, decay] = GetParam();
  AttentionScratch scratch;
  for (int64_t L : {1, 2, 6, 7, 8, 31, 32, 33, 63, 64, 65, 98, 127, 128, 129, 194, 260}) {
    Problem p = MakeProblem(L, D, decay, static_cast<uint32_t>(L));
    std::vector<double> expected(L * D);
    AttendHeadReference(p.params, expected.data());
    const double tolerance = Tolerance(p);
    for (const Form& form : kForms) {
      p.params.mode = form.mode;
      p.params.C = form.C;
      std::fill(p.y.begin(), p.y.end(), std::numeric_limits<float>::quiet_NaN());
      AttendHead(p.params, &scratch);
      for (int64_t i = 0; i < L * D; ++i) {
        ASSERT_TRUE(std::isfinite(p.y[i]));
        ASSERT_LE(std::fabs(p.y[i] - expected[i]), tolerance)
            << "L " << L << " D " << D << " form " << Name(form.mode) << " C " << form.C << " element " << i;
      }
    }
  }
}

TEST_P(AttentionTest, TheTwoReferencesAgree) {
  const auto& [D, decay] = GetParam();
  Problem p = MakeProblem(70, D, decay, 9);
  std::vector<double> full(p.L * D);
  std::vector<double> recurrent(p.L * D);
  AttendHeadReference(p.params, full.data());
  AttendHeadRecurrentReference(p.params, recurrent.data());
  for (int64_t i = 0; i < p.L * D; ++i) EXPECT_NEAR(full[i], recurrent[i], 1e-10);
}

TEST_P(AttentionTest, BFloat16OperandsAreReadExactly) {
  const auto& [D, decay] = GetParam();
  Problem p = MakeProblem(100, D, decay, 3);
  std::vector<uint16_t> bits(p.qkv.size());
  for (size_t i = 0; i < bits.size(); ++i) {  // what bfloat16 keeps of each value, in both types
    uint32_t wide;
    std::memcpy(&wide, &p.qkv[i], 4);
    bits[i] = static_cast<uint16_t>(wide >> 16);
    wide &= 0xFFFF0000u;
    std::memcpy(&p.qkv[i], &wide, 4);
  }
  AttentionScratch scratch;
  for (const Form& form : kForms) {
    p.params.mode = form.mode;
    p.params.C = form.C;
    AttendHead(p.params, &scratch);
    const std::vector<float> expected = p.y;
    AttentionParams narrow = p.params;
    narrow.bfloat16 = true;
    narrow.q = bits.data();
    narrow.k = bits.data() + D;
    narrow.v = bits.data() + 2 * D;
    if (AmxTakes(narrow)) continue;  // rounds more than its operands: AmxTest
    AttendHead(narrow, &scratch);
    EXPECT_EQ(p.y, expected);
  }
}

TEST_P(AttentionTest, EveryInstructionSetIsRight) {
  const auto& [D, decay] = GetParam();
  Problem p = MakeProblem(130, D, decay, 4);
  std::vector<double> expected(p.L * D);
  AttendHeadReference(p.params, expected.data());
  const double tolerance = Tolerance(p);
  AttentionScratch scratch;
  const auto supported = hwy::SupportedTargets();
  for (auto remaining = supported; remaining != 0; remaining &= remaining - 1) {
    const auto target = remaining & ~(remaining - 1);  // one bit
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    for (const Form& form : kForms) {
      p.params.mode = form.mode;
      p.params.C = form.C;
      AttendHead(p.params, &scratch);
      for (int64_t i = 0; i < p.L * D; ++i) {
        ASSERT_LE(std::fabs(p.y[i] - expected[i]), tolerance) << hwy::TargetName(target) << " " << Name(form.mode);
      }
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

std::string ShapeName(const testing::TestParamInfo<std::tuple<int, Decay>>& test) {
  const char* names[] = {"Lit", "D", "S", "NearOne", "Closing"};
  return std::string(names[static_cast<int>(std::get<1>(test.param))]) + std::to_string(std::get<0>(test.param));
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest,
                         testing::Combine(testing::Values(1, 12, 32, 50, 64, 128),
                                          testing::Values(Decay::kNone, Decay::kConstant, Decay::kMild, Decay::kNearOne,
                                                          Decay::kClosing)),
                         ShapeName);

// q, k and v of a problem as bfloat16, with what the kernel may read beyond the last token being NaN.
std::vector<uint16_t> Narrow(Problem* p) {
  std::vector<uint16_t> bits(p->qkv.size() + kAttentionBlock * 3 * p->D, 0x7FC0);
  for (size_t i = 0; i < p->qkv.size(); ++i) {
    uint32_t wide;
    std::memcpy(&wide, &p->qkv[i], 4);
    bits[i] = static_cast<uint16_t>(wide >> 16);
  }
  p->params.bfloat16 = true;
  p->params.q = bits.data();
  p->params.k = bits.data() + p->D;
  p->params.v = bits.data() + 2 * p->D;
  return bits;
}

// Scores are rounded to bfloat16, and so are k with its decays and the states that q meets: three halves of a unit.
constexpr double kAmxRounding = 1.5 / 256;

class AmxTest : public testing::TestWithParam<std::tuple<int, Decay>> {};

TEST_P(AmxTest, MatchesTheFormulaWithinBFloat16) {
  if (!HasAmxBf16()) return;  // nothing runs here that could be wrong
  const auto& [D, decay] = GetParam();
  AttentionScratch scratch;
  for (int64_t L : {1, 2, 15, 16, 17, 31, 33, 47, 48, 63, 64, 65, 98, 128, 200}) {
    Problem p = MakeProblem(L, D, decay, static_cast<uint32_t>(L));
    const std::vector<uint16_t> bits = Narrow(&p);
    std::vector<double> expected(L * D);
    AttendHeadReference(p.params, expected.data());
    Problem size = p;  // the formula's terms, all positive
    std::vector<uint16_t> magnitudes = bits;
    for (uint16_t& b : magnitudes) b &= 0x7FFF;
    size.params.q = magnitudes.data();
    size.params.k = magnitudes.data() + D;
    size.params.v = magnitudes.data() + 2 * D;
    std::vector<double> bound(L * D);
    AttendHeadReference(size.params, bound.data());
    for (const Form& form :
         {Form{ComputeMode::kParallel, 0}, Form{ComputeMode::kChunked, 16}, Form{ComputeMode::kChunked, 32},
          Form{ComputeMode::kChunked, 48}, Form{ComputeMode::kChunked, 64}}) {
      p.params.mode = form.mode;
      p.params.C = form.C;
      ASSERT_EQ(AmxTakes(p.params), form.mode == ComputeMode::kChunked || L <= 64);
      if (!AmxTakes(p.params)) continue;
      std::fill(p.y.begin(), p.y.end(), std::numeric_limits<float>::quiet_NaN());
      AmxAttendHead(p.params, &scratch);
      for (int64_t i = 0; i < L * D; ++i) {
        ASSERT_LE(std::fabs(p.y[i] - expected[i]), kAmxRounding * bound[i] + 1e-30)
            << "L " << L << " form " << Name(form.mode) << " C " << form.C << " element " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AmxTest,
                         testing::Combine(testing::Values(32, 64, 96, 128),
                                          testing::Values(Decay::kNone, Decay::kConstant, Decay::kMild, Decay::kNearOne,
                                                          Decay::kClosing)),
                         ShapeName);

// A row in spans, with the states passed between them, is the row.
TEST(SpanTest, SpansWithTheirStatesMakeTheRow) {
  AttentionScratch scratch;
  for (bool narrow : {false, true}) {
    for (int D : {12, 32, 64}) {
      for (Decay decay : {Decay::kNone, Decay::kConstant, Decay::kMild, Decay::kClosing}) {
        for (const Form& form : {Form{ComputeMode::kChunked, 7}, Form{ComputeMode::kChunked, 32},
                                 Form{ComputeMode::kChunked, 64}, Form{ComputeMode::kRecurrent, 0}}) {
          Problem p = MakeProblem(300, D, decay, 6);
          std::vector<uint16_t> bits;
          if (narrow) bits = Narrow(&p);
          std::vector<double> expected(p.L * D);
          AttendHeadReference(p.params, expected.data());
          double largest = 0;
          for (double y : expected) largest = std::max(largest, std::fabs(y));
          p.params.mode = form.mode;
          p.params.C = form.C;
          const int64_t span = form.C == 7 ? 126 : 128;
          const int64_t num_spans = (p.L + span - 1) / span;
          const int64_t size = D * PaddedHeadWidth(D);
          std::vector<AttentionParams> spans;
          std::vector<std::vector<float>> forward(num_spans, std::vector<float>(size));
          std::vector<std::vector<float>> backward(num_spans, std::vector<float>(size));
          std::vector<float> all(num_spans);
          const int64_t element = narrow ? 2 : 4;
          for (int64_t s = 0; s < num_spans; ++s) {
            AttentionParams part = p.params;
            part.L = std::min(span, p.L - s * span);
            for (const void** base : {&part.q, &part.k, &part.v}) {
              *base = static_cast<const char*>(*base) + s * span * part.stride * element;
            }
            if (part.log_a != nullptr) part.log_a += s * span * part.log_a_stride;
            part.y += s * span * part.y_stride;
            SummarizeHead(part, forward[s].data(), backward[s].data(), &all[s], &scratch);
            spans.push_back(part);
          }
          std::vector<std::vector<float>> before(num_spans, std::vector<float>(size, 0.f));
          std::vector<std::vector<float>> behind(num_spans, std::vector<float>(size, 0.f));
          for (int64_t s = 0; s < num_spans; ++s) {
            for (int64_t t = 0; t < num_spans; ++t) {
              float passed = 1;
              for (int64_t u = std::min(s, t) + 1; u < std::max(s, t); ++u) passed *= all[u];
              for (int64_t i = 0; i < size; ++i) {
                if (t < s || decay == Decay::kNone) before[s][i] += passed * forward[t][i];
                if (t > s && decay != Decay::kNone) behind[s][i] += passed * backward[t][i];
              }
            }
            spans[s].state_before = before[s].data();
            spans[s].state_after = behind[s].data();
            AttendHead(spans[s], &scratch);
          }
          const double tolerance = (narrow && AmxTakes(p.params) ? 1e-2 : 2e-6) * (1 + largest) * 4;
          for (int64_t i = 0; i < p.L * D; ++i) {
            ASSERT_LE(std::fabs(p.y[i] - expected[i]), tolerance)
                << "D " << D << " form " << Name(form.mode) << " C " << form.C << " narrow " << narrow << " " << i;
          }
        }
      }
    }
  }
}

TEST(AttentionLongTest, ChunkedAndRecurrentFollowTheRecurrenceOver20000Tokens) {
  AttentionScratch scratch;
  for (Decay decay : {Decay::kNearOne, Decay::kMild, Decay::kClosing}) {
    Problem p = MakeProblem(20000, 16, decay, 5);
    std::vector<double> expected(p.L * p.D);
    AttendHeadRecurrentReference(p.params, expected.data());
    double largest = 0;
    for (double y : expected) largest = std::max(largest, std::fabs(y));
    for (const Form& form : {Form{ComputeMode::kChunked, 32}, Form{ComputeMode::kRecurrent, 0}}) {
      p.params.mode = form.mode;
      p.params.C = form.C;
      AttendHead(p.params, &scratch);
      // Running sums err by a random walk: sqrt(L) roundings of the largest value.
      const double tolerance = std::sqrt(20000.0) * std::numeric_limits<float>::epsilon() * largest;
      for (int64_t i = 0; i < p.L * p.D; ++i) ASSERT_LE(std::fabs(p.y[i] - expected[i]), tolerance);
    }
  }
}

}  // namespace
}  // namespace lion
