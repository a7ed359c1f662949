// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_RELOADER_H_
#define LION_SERVER_RELOADER_H_

// Reads keys, certificates and model directories again while the server serves, on a thread of its own.
//
// What is bad changes nothing: what served before serves on, one line says why, lion_reloads_total counts it.
// Request (SIGHUP) reads keys and certificates again, and loads each model whose directory is not what it was when it
// was last loaded. Every interval the reloader looks by itself: keys and certificates are read again when their files
// have changed; model directories too if watch_models, once they have stood still for one interval, so that a copy in
// progress is left alone. A model is loaded beside the version that serves, so both must fit into memory; while calls
// still run on a version before that one, it waits.
//
//   Reloader reloader(options);                  // notes what the files are like: before they are first read
//   reloader.Start(server.get());
//   ... another thread: reloader.Request() ...
//   const bool idle = reloader.Stop();

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/served_model.h"
#include "server/server.h"

namespace lion {

// What tells that files have changed: the size, time and inode of a file, or of every file below a directory (links
// followed, so that a swapped Kubernetes volume counts). Equal stamps mean unchanged files. "" for no path, "absent"
// for what is not there.
std::string StampOf(const std::string& path);

class Reloader {
 public:
  struct Options {
    std::string api_key_file;  // empty = none
    std::string tls_cert;      // the three as flags.h has them; empty = none
    std::string tls_key;
    std::string tls_client_ca;
    std::vector<std::string> model_directories;  // in the server's order
    // Loads model index again, to stand beside current. Blocks; called on the reloader's thread. Its error is one line.
    std::function<absl::StatusOr<ServedModel>(int index, const ServedModel& current)> load_model;
    absl::Duration interval = absl::Seconds(10);  // how often files are looked at
    bool watch_models = false;
  };

  // Notes what the files are like.
  explicit Reloader(Options options);
  ~Reloader();  // Stop; waits for a model that is being loaded

  // From here on. Once; server must be open, and outlive this.
  void Start(Server* server);

  // Reads everything again, soon. Before Start: then. Thread-safe, never blocks.
  void Request();

  // Ends the thread: true, and the server is left alone. False if a model is being loaded: it ends after that. Not to
  // be called by two at once.
  bool Stop();

 private:
  struct Stamps {
    std::string api_keys;
    std::string tls;
    std::vector<std::string> models;
  };

  void Run();
  std::string StampOfTls() const;
  std::vector<std::string> StampsOfModels() const;
  void ReloadFiles(bool requested);
  void ReloadModels(bool requested);
  void ReloadApiKeys();
  void ReloadTls();
  void ReloadModel(int index, std::string stamp);

  const Options options_;
  Server* server_ = nullptr;
  // The thread's own.
  Stamps tried_;                   // as they were when they were last read
  std::vector<bool> served_;       // of each model: what was tried serves
  std::vector<std::string> seen_;  // the models' stamps an interval ago
  bool deferred_ = false;          // a model is to be loaded when old versions are gone

  absl::Mutex mu_;
  bool requested_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool loading_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace lion

#endif  // LION_SERVER_RELOADER_H_
