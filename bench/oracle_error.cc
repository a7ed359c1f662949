// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// How far each precision of a device is from the reference implementation's numbers, over the text oracle models
// (tests/oracle): prints one line of JSON. bench/dtype_quality_bench.py makes a table of it.
//
//   build/release-cuda/bin/oracle_error --device=cuda:0 --dtypes=float32,bfloat16 tests/oracle/text-lion-s-ln ...

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "model/compute_pool.h"
#include "model/model.h"
#include "model/safetensors.h"

ABSL_FLAG(std::string, device, "cpu", "cpu or cuda:N");
ABSL_FLAG(std::vector<std::string>, dtypes, std::vector<std::string>({"float32", "bfloat16"}), "the device's");

namespace lion {
namespace {

// A tensor of the file as type T, which it must be of.
template <class T>
absl::StatusOr<std::vector<T>> Values(const WeightFiles& files, const std::string& name) {
  const StoredTensor* tensor = files.Find(name);
  if (tensor == nullptr || tensor->size_bytes != tensor->num_elements() * sizeof(T)) {
    return absl::InvalidArgumentError(absl::StrCat("expected.safetensors: no usable tensor ", name));
  }
  std::vector<T> values(tensor->num_elements());
  std::memcpy(values.data(), tensor->data, tensor->size_bytes);
  return values;
}

// Differences so far; infinite once a value is not finite.
struct Errors {
  double squares = 0;
  double max = 0;
  int64_t count = 0;

  void Add(const std::vector<float>& actual, const std::vector<float>& expected) {
    for (size_t i = 0; i < expected.size(); ++i) {
      const double d = i < actual.size() ? std::fabs(static_cast<double>(actual[i]) - expected[i]) : NAN;
      max = std::isfinite(d) ? std::max(max, d) : std::numeric_limits<double>::infinity();
      squares += d * d;
      ++count;
    }
  }
};

// Both forms of every row of one oracle model, in one precision.
absl::StatusOr<nlohmann::ordered_json> Compare(const std::string& directory, DType dtype, ComputePool* pool) {
  ModelOptions options;
  options.directory = directory;
  options.devices = {absl::GetFlag(FLAGS_device)};
  options.dtype = dtype;
  options.parallel_max_tokens = 128;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(options, pool);
  if (!model.ok()) return model.status();
  absl::StatusOr<std::unique_ptr<WeightFiles>> files = WeightFiles::OpenFile(directory + "/expected.safetensors");
  if (!files.ok()) return files.status();
  absl::StatusOr<std::vector<int64_t>> lengths = Values<int64_t>(**files, "lengths");
  if (!lengths.ok()) return lengths.status();

  Errors errors;
  for (size_t b = 0; b < lengths->size(); ++b) {
    absl::StatusOr<std::vector<int64_t>> ids = Values<int64_t>(**files, absl::StrCat("input_ids.", b));
    absl::StatusOr<std::vector<int64_t>> types = Values<int64_t>(**files, absl::StrCat("token_type_ids.", b));
    absl::StatusOr<std::vector<float>> hidden = Values<float>(**files, absl::StrCat("last_hidden_state.", b));
    for (const absl::Status& status : {ids.status(), types.status(), hidden.status()}) {
      if (!status.ok()) return status;
    }
    const std::vector<uint32_t> row_ids(ids->begin(), ids->end());
    const std::vector<uint32_t> row_types(types->begin(), types->end());
    for (ComputeMode mode : {ComputeMode::kParallel, ComputeMode::kChunked}) {
      const Row row{row_ids, row_types, mode, 0, RowOutput::kTokens};
      RowResult result;
      const absl::Status status = (*model)->encoder()->Encode({&row, 1}, {&result, 1});
      if (!status.ok()) return status;
      errors.Add(result.values, *hidden);
    }
  }
  return nlohmann::ordered_json{{"model", directory.substr(directory.rfind('/') + 1)},
                                {"dtype", std::string(Name(dtype))},
                                {"rms", std::sqrt(errors.squares / static_cast<double>(errors.count))},
                                {"max", errors.max}};
}

absl::Status Main(const std::vector<std::string>& directories) {
  ComputePool pool(ComputePool::Options{.num_threads = 2});
  nlohmann::ordered_json found = nlohmann::ordered_json::array();
  for (const std::string& directory : directories) {
    for (const std::string& name : absl::GetFlag(FLAGS_dtypes)) {
      const std::optional<DType> dtype = ParseDType(name);
      if (!dtype.has_value()) return absl::InvalidArgumentError(absl::StrCat("--dtypes: no precision ", name));
      absl::StatusOr<nlohmann::ordered_json> errors = Compare(directory, *dtype, &pool);
      if (!errors.ok()) return errors.status();
      found.push_back(*std::move(errors));
    }
  }
  std::printf("%s\n", found.dump().c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace lion

int main(int argc, char** argv) {
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  const absl::Status status = lion::Main({arguments.begin() + 1, arguments.end()});
  if (!status.ok()) std::fprintf(stderr, "oracle_error: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
