// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/api_keys.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// SHA-256 of "sesame" and of "k2".
constexpr char kSesame[] = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272";
constexpr char kK2[] = "9F5B63A2C9D5E3F7F9E9C2E1D0C6A8B4A0B1C2D3E4F5A6B7C8D9E0F1A2B3C4D5";

std::string Text() { return std::string("# who may call\n\n  ann  ") + kSesame + " \r\nbob\t" + kK2 + "\n"; }

TEST(ApiKeysTest, AKnownKeyPasses) {
  const absl::StatusOr<ApiKeys> keys = ApiKeys::Parse(Text());
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->size(), 2);
  EXPECT_TRUE(keys->Check("Bearer sesame").ok());
  EXPECT_TRUE(keys->Check("bearer sesame").ok());  // a scheme has no case
}

TEST(ApiKeysTest, EverythingElseIsUnauthenticated) {
  const absl::StatusOr<ApiKeys> keys = ApiKeys::Parse(Text());
  ASSERT_TRUE(keys.ok()) << keys.status();
  const std::optional<absl::string_view> bad[] = {
      std::nullopt,     "",           "Bearer",         "Bearer ",     "sesame", "Basic sesame", "Bearer Sesame",
      "Bearer sesame ", "Bearer ann", "Bearer  sesame", "Bearersesame"};
  for (const auto& value : bad) {
    const absl::Status status = keys->Check(value);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << std::string(value.value_or("none"));
    EXPECT_THAT(std::string(status.message()), StartsWith("authorization: "));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("sesame")));
  }
  EXPECT_FALSE(keys->Check(std::string("Bearer ") + kSesame).ok());  // the hash is no key
}

TEST(ApiKeysTest, ABadLineIsNamedAndNotShown) {
  const std::string hash = kSesame;
  const struct {
    std::string text;
    const char* line;
  } cases[] = {
      {"", "line 1"},
      {"# nobody\n", "line 1"},
      {"ann\n", "line 1"},
      {"\nann " + hash.substr(1) + "\n", "line 2"},
      {"ann " + hash + "0\n", "line 1"},
      {"ann " + std::string(64, 'g') + "\n", "line 1"},
      {"ann " + hash + " more\n", "line 1"},
      {"ann " + hash + "\nann " + hash + "\n", "line 2"},
  };
  for (const auto& c : cases) {
    const absl::Status status = ApiKeys::Parse(c.text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(std::string(status.message()), StartsWith(c.line)) << c.text;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr(hash.substr(1, 20))));
  }
}

TEST(ApiKeysTest, AFileThatIsNotThereIsNamed) {
  const absl::Status status = ApiKeys::ReadFile("/nowhere/keys").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), StartsWith("/nowhere/keys"));
}

}  // namespace
}  // namespace lion
