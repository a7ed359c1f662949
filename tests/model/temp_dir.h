// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_TEMP_DIR_H_
#define LION_TESTS_MODEL_TEMP_DIR_H_

// A directory of its own for one test, removed with all that is in it at the end.

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace lion {

class TempDir {
 public:
  TempDir() {
    std::string name = testing::TempDir() + "/lion_test_XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

  // Writes a file and returns its path.
  std::string Write(const std::string& name, std::string_view bytes) const {
    std::ofstream out(File(name), std::ios::binary);
    out << bytes;
    EXPECT_TRUE(out.flush().good()) << File(name);
    return File(name);
  }

  // A FIFO that nobody writes to: opening it to read would wait for ever.
  std::string MakeFifo(const std::string& name) const {
    EXPECT_EQ(mkfifo(File(name).c_str(), 0600), 0);
    return File(name);
  }

 private:
  std::string path_;
};

}  // namespace lion

#endif  // LION_TESTS_MODEL_TEMP_DIR_H_
