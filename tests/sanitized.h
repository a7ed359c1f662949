// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_SANITIZED_H_
#define LION_TESTS_SANITIZED_H_

// Whether a test runs under ASan or TSan. It does all that it does elsewhere, with two exceptions: what only repeats
// the same steps is done less often, for a step takes up to twenty times as long; and the process' memory is not
// judged, for shadow and freed blocks that are kept are the sanitizer's.

namespace lion {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace lion

#endif  // LION_TESTS_SANITIZED_H_
