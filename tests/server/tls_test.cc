// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/tls.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

using ::testing::HasSubstr;

// A key and a certificate of its own, as files.
struct Pair {
  explicit Pair(const std::string& name) {
    const std::string base = absl::StrCat(testing::TempDir(), "/lion_tls_test_", getpid(), "_", name);
    key_path = base + ".key";
    cert_path = base + ".pem";
    EVP_PKEY* key = EVP_RSA_gen(2048);
    X509* cert = X509_new();
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    X509_sign(cert, key, EVP_sha256());
    FILE* file = fopen(key_path.c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    fclose(file);
    file = fopen(cert_path.c_str(), "w");
    PEM_write_X509(file, cert);
    fclose(file);
    X509_free(cert);
    EVP_PKEY_free(key);
  }
  ~Pair() {
    unlink(key_path.c_str());
    unlink(cert_path.c_str());
  }
  std::string key_path;
  std::string cert_path;
};

TEST(TlsTest, NothingGivenIsNoTls) {
  const absl::StatusOr<TlsFiles> files = TlsFiles::Read("", "", "");
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_TRUE(files->cert.empty());
}

TEST(TlsTest, APairIsReadAndMakesCredentials) {
  const Pair pair("good");
  const absl::StatusOr<TlsFiles> files = TlsFiles::Read(pair.cert_path, pair.key_path, pair.cert_path);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT(files->cert, HasSubstr("BEGIN CERTIFICATE"));
  EXPECT_THAT(files->key, HasSubstr("PRIVATE KEY"));
  EXPECT_EQ(files->client_ca, files->cert);
  LiveTls live(*files);
  EXPECT_NE(live.Credentials(), nullptr);
}

TEST(TlsTest, WhatIsWrongIsNamed) {
  const Pair pair("one");
  const Pair other("other");
  const std::string nonsense = absl::StrCat(testing::TempDir(), "/lion_tls_test_", getpid(), "_nonsense");
  std::ofstream(nonsense) << "nonsense\n";
  const struct {
    std::string cert, key, ca;
    std::string names;
  } cases[] = {
      {pair.cert_path, "", "", "--tls_cert: needs --tls_key"},
      {"", pair.key_path, "", "--tls_key: needs --tls_cert"},
      {"", "", pair.cert_path, "--tls_client_ca: needs --tls_cert"},
      {"/nowhere", pair.key_path, "", "--tls_cert: /nowhere cannot be read"},
      {pair.cert_path, "/nowhere", "", "--tls_key: /nowhere cannot be read"},
      {pair.cert_path, pair.key_path, "/nowhere", "--tls_client_ca: /nowhere cannot be read"},
      {nonsense, pair.key_path, "", absl::StrCat("--tls_cert: ", nonsense, " holds no PEM certificate")},
      {pair.cert_path, nonsense, "", absl::StrCat("--tls_key: ", nonsense, " holds no PEM private key")},
      {pair.cert_path, pair.key_path, nonsense, absl::StrCat("--tls_client_ca: ", nonsense)},
      {pair.cert_path, other.key_path, "", "is not the key of the certificate"},
  };
  for (const auto& c : cases) {
    const absl::Status status = TlsFiles::Read(c.cert, c.key, c.ca).status();
    EXPECT_FALSE(status.ok()) << c.names;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.names));
  }
  unlink(nonsense.c_str());
}

}  // namespace
}  // namespace lion
