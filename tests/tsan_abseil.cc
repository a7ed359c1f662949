// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Tells ThreadSanitizer what abseil's locks do. Linked into every test of a build with LION_SANITIZE=thread.
//
// The distribution's abseil was compiled without the sanitizer, and its Mutex is no pthread mutex: unseen, every field
// it guards would be reported as a race. The definitions here take the library's place (the executable's symbols come
// first), call it, and state the ordering: what came before Unlock, Wait or Notify is visible after the Lock, Wait or
// WaitForNotification that follows.
//
// Await and LockWhen poll instead: abseil lets the thread that unlocks evaluate the conditions of those that wait,
// which no annotation can express.

#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>
#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/base/config.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#define LION_STRINGIFY_(x) #x
#define LION_STRINGIFY(x) LION_STRINGIFY_(x)
#define LION_NO_TSAN __attribute__((no_sanitize("thread")))

namespace {

// The library's own definition of absl::NAME, given by the mangled end of its name ("5Mutex4LockEv").
template <typename Function>
LION_NO_TSAN Function Library(const char* prefix, const char* mangled) {
  const std::string space = LION_STRINGIFY(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string symbol = prefix + ("4absl" + std::to_string(space.size()) + space) + mangled;
  void* found = dlsym(RTLD_NEXT, symbol.c_str());
  if (found == nullptr) {
    std::fprintf(stderr, "tsan_abseil.cc: abseil has no %s\n", symbol.c_str());
    std::abort();
  }
  return reinterpret_cast<Function>(found);
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

LION_NO_TSAN void Mutex::Lock() {
  static const auto real = Library<void (*)(Mutex*)>("_ZN", "5Mutex4LockEv");
  real(this);
  __tsan_acquire(this);
}

LION_NO_TSAN bool Mutex::TryLock() {
  static const auto real = Library<bool (*)(Mutex*)>("_ZN", "5Mutex7TryLockEv");
  const bool locked = real(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

LION_NO_TSAN void Mutex::Unlock() {
  static const auto real = Library<void (*)(Mutex*)>("_ZN", "5Mutex6UnlockEv");
  __tsan_release(this);
  real(this);
}

LION_NO_TSAN void Mutex::ReaderLock() {
  static const auto real = Library<void (*)(Mutex*)>("_ZN", "5Mutex10ReaderLockEv");
  real(this);
  __tsan_acquire(this);
}

LION_NO_TSAN void Mutex::ReaderUnlock() {
  static const auto real = Library<void (*)(Mutex*)>("_ZN", "5Mutex12ReaderUnlockEv");
  __tsan_release(this);
  real(this);
}

LION_NO_TSAN void Mutex::Await(const Condition& condition) {
  while (!condition.Eval()) {
    Unlock();
    sched_yield();
    Lock();
  }
}

LION_NO_TSAN bool Mutex::AwaitWithDeadline(const Condition& condition, absl::Time deadline) {
  while (!condition.Eval()) {
    if (absl::Now() >= deadline) return false;
    Unlock();
    sched_yield();
    Lock();
  }
  return true;
}

LION_NO_TSAN bool Mutex::AwaitWithTimeout(const Condition& condition, absl::Duration timeout) {
  return AwaitWithDeadline(condition, absl::Now() + timeout);
}

LION_NO_TSAN void Mutex::LockWhen(const Condition& condition) {
  Lock();
  Await(condition);
}

LION_NO_TSAN void CondVar::Wait(Mutex* mu) {
  static const auto real = Library<void (*)(CondVar*, Mutex*)>("_ZN", "7CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mu);
  real(this, mu);
  __tsan_acquire(mu);
}

LION_NO_TSAN bool CondVar::WaitWithTimeout(Mutex* mu, Duration timeout) {
  static const auto real =
      Library<bool (*)(CondVar*, Mutex*, Duration)>("_ZN", "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  __tsan_release(mu);
  const bool timed_out = real(this, mu, timeout);
  __tsan_acquire(mu);
  return timed_out;
}

LION_NO_TSAN bool CondVar::WaitWithDeadline(Mutex* mu, Time deadline) {
  static const auto real =
      Library<bool (*)(CondVar*, Mutex*, Time)>("_ZN", "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  __tsan_release(mu);
  const bool timed_out = real(this, mu, deadline);
  __tsan_acquire(mu);
  return timed_out;
}

LION_NO_TSAN void Notification::Notify() {
  static const auto real = Library<void (*)(Notification*)>("_ZN", "12Notification6NotifyEv");
  __tsan_release(this);
  real(this);
}

LION_NO_TSAN void Notification::WaitForNotification() const {
  static const auto real = Library<void (*)(const Notification*)>("_ZNK", "12Notification19WaitForNotificationEv");
  real(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

ABSL_NAMESPACE_END
}  // namespace absl
