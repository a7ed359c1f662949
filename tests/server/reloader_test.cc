// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// A server around fake models whose directories and key file are changed under it.

#include "server/reloader.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

constexpr char kAnnsKey[] = "ann 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";

class ReloaderTest : public testing::Test {
 protected:
  ReloaderTest() : folder_(absl::StrCat(testing::TempDir(), "/reloader_test_", getpid(), "_", ++num_tests_)) {
    std::filesystem::create_directories(folder_ + "/text");
    std::filesystem::create_directories(folder_ + "/ids");
    Write("text/config.json", "first");
    Write("ids/config.json", "first");
    Write("keys", kAnnsKey);
  }
  ~ReloaderTest() override {
    reloader_.reset();
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Write(const std::string& file, const std::string& content) {
    std::ofstream(folder_ + "/" + file + ".new") << content;
    std::filesystem::rename(folder_ + "/" + file + ".new", folder_ + "/" + file);
  }

  // The server and its reloader; a directory's version is what its config.json holds, and "bad" does not load.
  void Start(Encoder* encoder = nullptr) {
    Server::Options options = TestServerOptions();
    options.api_keys = *ApiKeys::Parse(kAnnsKey);
    server_ = std::make_unique<TestServer>(std::move(options), encoder);
    server_->Open();
    Reloader::Options reloading;
    reloading.api_key_file = folder_ + "/keys";
    reloading.model_directories = {folder_ + "/text", folder_ + "/ids"};
    reloading.interval = absl::Hours(100);
    reloading.load_model = [this](int index, const ServedModel& current) -> absl::StatusOr<ServedModel> {
      std::ifstream file(folder_ + (index == 0 ? "/text" : "/ids") + "/config.json");
      std::string version;
      file >> version;
      if (version == "bad") return absl::InvalidArgumentError("config.json: is bad");
      auto own = std::make_shared<FakeEncoder>(TestEncoderOptions());
      ServedModel next = current;
      next.info.version = version;
      next.encoders = {own.get()};
      next.owner = own;
      alive_ = own;
      return next;
    };
    reloader_ = std::make_unique<Reloader>(std::move(reloading));
    reloader_->Start(server_->operator->());
  }

  std::string Version(int model) { return (*(*server_)->models())[model].info.version; }

  // A request, until its outcome is counted.
  void Reload(const char* what, const char* result) {
    const std::string series = absl::StrCat("lion_reloads_total{what=\"", what, "\",result=\"", result, "\"}");
    const double before = server_->Metric(series);
    reloader_->Request();
    server_->WaitForMetric(series, before + 1);
  }

  static inline int num_tests_ = 0;
  const std::string folder_;
  std::weak_ptr<FakeEncoder> alive_;  // the encoder of the version loaded last
  std::unique_ptr<TestServer> server_;
  std::unique_ptr<Reloader> reloader_;
};

TEST_F(ReloaderTest, AChangedModelTakesTheOthersPlaceAndTheOtherStays) {
  Start();
  const std::string before = Version(1);
  Write("text/config.json", "second");
  Reload("model", "ok");
  EXPECT_EQ(Version(0), "second");
  EXPECT_EQ(Version(1), before);
  EXPECT_EQ(server_->Metric("lion_model_info{model=\"text\",version=\"second\",variant=\"lion-s\",dtype=\"float32\","
                            "device=\"cpu\"}"),
            1);
}

TEST_F(ReloaderTest, ABadOneChangesNothingAndAGoodOneCountsAfterIt) {
  Start();
  const std::string before = Version(0);
  Write("text/config.json", "bad");
  Reload("model", "refused");
  EXPECT_EQ(Version(0), before);
  Reload("model", "refused");  // asked again, it is tried again
  Write("text/config.json", "good");
  Reload("model", "ok");
  EXPECT_EQ(Version(0), "good");
}

TEST_F(ReloaderTest, AVersionGoesWhenNoCallNeedsIt) {
  Start();
  Write("text/config.json", "second");
  Reload("model", "ok");
  const std::weak_ptr<FakeEncoder> second = alive_;
  auto call = (*server_)->models();  // what a call that has begun holds
  Write("text/config.json", "third");
  Reload("model", "ok");
  EXPECT_FALSE(second.expired());
  EXPECT_EQ(call->front().info.version, "second");
  Write("text/config.json", "fourth");  // waits for the call: there are never three versions
  reloader_->Request();
  call.reset();
  server_->WaitForMetric("lion_reloads_total{what=\"model\",result=\"ok\"}", 3);
  EXPECT_EQ(Version(0), "fourth");
  EXPECT_TRUE(second.expired());
}

TEST_F(ReloaderTest, OldVersionsAreFreed) {
  Start();
  std::weak_ptr<FakeEncoder> before;
  for (int i = 0; i < 5; ++i) {
    Write("text/config.json", absl::StrCat("version", i));
    Reload("model", "ok");
    while (!before.expired()) std::this_thread::yield();
    before = alive_;
  }
  EXPECT_FALSE(before.expired());
}

TEST_F(ReloaderTest, BadKeysChangeNothing) {
  Start();
  Write("keys", "nonsense\n");
  Reload("api_keys", "refused");
  Write("keys", kAnnsKey);
  Reload("api_keys", "ok");
}

TEST(StampTest, TellsWhatHasChanged) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/stamp_test_", getpid());
  std::filesystem::create_directories(folder + "/2_Dense");
  std::ofstream(folder + "/config.json") << "a";
  const std::string first = StampOf(folder);
  EXPECT_EQ(StampOf(folder), first);
  std::ofstream(folder + "/2_Dense/config.json") << "b";
  const std::string second = StampOf(folder);
  EXPECT_NE(second, first);
  std::filesystem::remove(folder + "/config.json");
  EXPECT_NE(StampOf(folder), second);
  EXPECT_EQ(StampOf(folder + "/config.json"), "absent");
  EXPECT_EQ(StampOf(""), "");
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace lion
