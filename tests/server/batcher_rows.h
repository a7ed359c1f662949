// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_SERVER_BATCHER_ROWS_H_
#define LION_TESTS_SERVER_BATCHER_ROWS_H_

// What the batcher's tests share: rows whose answers are kept by name, and a look into the metrics.

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "server/metrics.h"
#include "server/row_queue.h"
#include "tests/fakes/fake_encoder.h"

namespace lion {

// Where the dones of a test put their answers, each under the row's name, in the order they came.
class Answers {
 public:
  struct Named {
    std::string name;
    RowAnswer answer;
  };

  std::function<void(RowAnswer)> Done(std::string name) {
    return [this, name = std::move(name)](RowAnswer answer) {
      absl::MutexLock lock(&mu_);
      answers_.push_back({name, std::move(answer)});
      arrived_.SignalAll();
    };
  }

  // Waits for the next answers, n of them, and takes them all.
  std::vector<Named> Take(size_t n) {
    absl::MutexLock lock(&mu_);
    while (answers_.size() < n) arrived_.Wait(&mu_);
    return std::exchange(answers_, {});
  }

  size_t size() const {
    absl::MutexLock lock(&mu_);
    return answers_.size();
  }

 private:
  mutable absl::Mutex mu_;
  absl::CondVar arrived_;
  std::vector<Named> answers_ ABSL_GUARDED_BY(mu_);
};

inline std::vector<std::string> Names(const std::vector<Answers::Named>& answers) {
  std::vector<std::string> names;
  names.reserve(answers.size());
  for (const Answers::Named& a : answers) names.push_back(a.name);
  return names;
}

// First ids of the rows of a batch: the tests give each row its own.
inline std::vector<uint32_t> Ids(const std::vector<PuppetEncoder::HeldRow>& batch) {
  std::vector<uint32_t> ids;
  ids.reserve(batch.size());
  for (const PuppetEncoder::HeldRow& row : batch) ids.push_back(row.ids[0]);
  return ids;
}

// A row of that many tokens, whose first id is id; its answer goes to answers under the id as its name.
inline PendingRow MakeRow(uint32_t id, int64_t tokens, Answers* answers, int model = 0) {
  PendingRow row;
  row.model = model;
  row.ids.assign(static_cast<size_t>(tokens), 1);
  row.ids[0] = id;
  row.done = answers->Done(absl::StrCat(id));
  return row;
}

// The value of a series in the metrics' text, or -1 if it is not there.
inline double MetricValue(const Metrics& metrics, const std::string& series) {
  const std::string text = metrics.Text();
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    double value = 0;
    if (absl::ConsumePrefix(&line, series + " ") && absl::SimpleAtod(line, &value)) return value;
  }
  return -1;
}

}  // namespace lion

#endif  // LION_TESTS_SERVER_BATCHER_ROWS_H_
