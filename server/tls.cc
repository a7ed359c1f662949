// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/tls.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lion {
namespace {

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* cert) const { X509_free(cert); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};

absl::Status ReadFile(const char* flag, const std::string& path, std::string* content) {
  std::ifstream file(path, std::ios::binary);
  if (file) content->assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  if (!file || file.bad()) return absl::NotFoundError(absl::StrCat("--", flag, ": ", path, " cannot be read"));
  return absl::OkStatus();
}

absl::Status Invalid(const char* flag, const std::string& path, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", path, " ", what));
}

std::unique_ptr<BIO, Free> Open(const std::string& pem) {
  return std::unique_ptr<BIO, Free>(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

std::unique_ptr<X509, Free> ParseCert(const std::string& pem) {
  return std::unique_ptr<X509, Free>(PEM_read_bio_X509(Open(pem).get(), nullptr, nullptr, nullptr));
}

std::unique_ptr<EVP_PKEY, Free> ParseKey(const std::string& pem) {
  // An encrypted key asks this for its password: there is none to give, and nobody to ask.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  return std::unique_ptr<EVP_PKEY, Free>(PEM_read_bio_PrivateKey(Open(pem).get(), nullptr, no_password, nullptr));
}

}  // namespace

absl::StatusOr<TlsFiles> TlsFiles::Read(const std::string& cert_path, const std::string& key_path,
                                        const std::string& client_ca_path) {
  if (cert_path.empty() != key_path.empty()) {
    return absl::InvalidArgumentError(cert_path.empty() ? "--tls_key: needs --tls_cert beside it"
                                                        : "--tls_cert: needs --tls_key beside it");
  }
  if (!client_ca_path.empty() && cert_path.empty()) {
    return absl::InvalidArgumentError("--tls_client_ca: needs --tls_cert and --tls_key beside it");
  }
  TlsFiles files;
  if (cert_path.empty()) return files;
  if (absl::Status status = ReadFile("tls_cert", cert_path, &files.cert); !status.ok()) return status;
  if (absl::Status status = ReadFile("tls_key", key_path, &files.key); !status.ok()) return status;
  const auto cert = ParseCert(files.cert);
  if (cert == nullptr) return Invalid("tls_cert", cert_path, "holds no PEM certificate");
  const auto key = ParseKey(files.key);
  if (key == nullptr) return Invalid("tls_key", key_path, "holds no PEM private key without a password");
  if (X509_check_private_key(cert.get(), key.get()) != 1) {
    return Invalid("tls_key", key_path, absl::StrCat("is not the key of the certificate in ", cert_path).c_str());
  }
  if (!client_ca_path.empty()) {
    if (absl::Status status = ReadFile("tls_client_ca", client_ca_path, &files.client_ca); !status.ok()) return status;
    if (ParseCert(files.client_ca) == nullptr) {
      return Invalid("tls_client_ca", client_ca_path, "holds no PEM certificate");
    }
  }
  return files;
}

absl::Status TlsFiles::CheckNotExpired(absl::Time now) const {
  const auto parsed = cert.empty() ? nullptr : ParseCert(cert);
  if (parsed == nullptr) return absl::OkStatus();
  std::tm end = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(parsed.get()), &end) != 1) return absl::OkStatus();
  const absl::Time not_after = absl::FromTM(end, absl::UTCTimeZone());
  if (now < not_after) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--tls_cert: the certificate expired on ",
                   absl::FormatTime("%Y-%m-%d %H:%M UTC", not_after, absl::UTCTimeZone())));
}

// SslServerCredentials reads its certificates once. gRPC's core can fetch them at each handshake instead; its C++ layer
// has no face for that, so this is one.
class LiveTls::TlsCredentials final : public grpc::ServerCredentials {
 public:
  explicit TlsCredentials(LiveTls* live, bool with_client_certificates)
      : live_(live),
        credentials_(grpc_ssl_server_credentials_create_with_options(
            grpc_ssl_server_credentials_create_options_using_config_fetcher(
                with_client_certificates ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                         : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
                &TlsCredentials::Fetch, this))) {}
  ~TlsCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  // gRPC calls it under a lock of the port's own, so one at a time.
  static grpc_ssl_certificate_config_reload_status Fetch(void* self, grpc_ssl_server_certificate_config** config) {
    auto* credentials = static_cast<TlsCredentials*>(self);
    absl::MutexLock lock(&credentials->live_->mu_);
    if (credentials->fetched_ == credentials->live_->version_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const TlsFiles files = credentials->live_->files_;
    const grpc_ssl_pem_key_cert_pair pair = {files.key.c_str(), files.cert.c_str()};
    // gRPC 1.51 wants some authority here always, and looks at it only where client certificates are asked for.
    const std::string& authority = files.client_ca.empty() ? files.cert : files.client_ca;
    *config = grpc_ssl_server_certificate_config_create(authority.c_str(), &pair, 1);
    credentials->fetched_ = credentials->live_->version_;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  LiveTls* const live_;
  int fetched_ = 0;  // version; guarded by live_->mu_
  grpc_server_credentials* const credentials_;
};

LiveTls::LiveTls(TlsFiles files) : files_(std::move(files)) {}
LiveTls::~LiveTls() = default;

void LiveTls::Set(TlsFiles files) {
  absl::MutexLock lock(&mu_);
  files_ = std::move(files);
  ++version_;
}

std::shared_ptr<grpc::ServerCredentials> LiveTls::Credentials() {
  bool tls = false;
  bool with_client_certificates = false;
  {
    absl::MutexLock lock(&mu_);
    tls = !files_.cert.empty();
    with_client_certificates = !files_.client_ca.empty();
  }
  if (!tls) return grpc::InsecureServerCredentials();
  credentials_ = std::make_shared<TlsCredentials>(this, with_client_certificates);
  return credentials_;
}

}  // namespace lion
