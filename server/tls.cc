// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/tls.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <fstream>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
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

std::shared_ptr<grpc::ServerCredentials> MakeCredentials(const TlsFiles& files) {
  if (files.cert.empty()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(files.client_ca.empty()
                                                ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                                : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = files.client_ca;
  options.pem_key_cert_pairs.push_back({files.key, files.cert});
  return grpc::SslServerCredentials(options);
}

}  // namespace lion
