// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// lion-client: the process around client/commands.h.

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <vector>

#include "client/commands.h"

namespace {

std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free, "it is set in a signal handler");

// The first Ctrl-C finishes what is in flight; the second ends the process at once, because the handler is gone by
// then.
void Interrupt(int) { interrupted.store(true); }

}  // namespace

int main(int argc, char** argv) {
  struct sigaction action {};
  action.sa_handler = Interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // and no SA_RESTART: a read that waits for input comes back
  sigaction(SIGINT, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the write

  lion::client::Streams streams;
  streams.in_fd = STDIN_FILENO;
  streams.out_is_terminal = isatty(STDOUT_FILENO) == 1;
  streams.err_is_terminal = isatty(STDERR_FILENO) == 1;
  streams.interrupted = &interrupted;
  return lion::client::RunCommandLine(std::vector<std::string>(argv + 1, argv + argc), streams);
}
