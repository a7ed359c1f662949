// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_CLIENT_TEMP_FILE_H_
#define LION_TESTS_CLIENT_TEMP_FILE_H_

// Files for tests, in GoogleTest's own folder, removed with the object.

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace lion::client {

class TempFile {
 public:
  // name is the file's last part, its suffix included; it is unique to this process and object.
  explicit TempFile(const std::string& name, const std::string& text = "") {
    static int count = 0;
    path_ = absl::StrCat(::testing::TempDir(), "lion_client_", getpid(), "_", count++, "_", name);
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TempFile() { std::remove(path_.c_str()); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;

  const std::string& path() const { return path_; }
  std::string Read() const {
    std::ostringstream text;
    text << std::ifstream(path_, std::ios::binary).rdbuf();
    return text.str();
  }

 private:
  std::string path_;
};

}  // namespace lion::client

#endif  // LION_TESTS_CLIENT_TEMP_FILE_H_
