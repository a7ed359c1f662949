# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0

# Every warning this project turns on, for its own code only (generated code and dependencies come as SYSTEM).
add_library(lion_warnings INTERFACE)
target_compile_options(lion_warnings INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Woverloaded-virtual -Wno-sign-compare -Werror
  $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>
  # GCC 12 at -O3 believes that std::string::operator=(const char*) overlaps itself.
  $<$<AND:$<CXX_COMPILER_ID:GNU>,$<CONFIG:Release>>:-Wno-restrict>)

# What every target is compiled with. x86-64-v2 is the floor; kernels choose wider instructions at run time.
add_compile_options($<$<STREQUAL:${CMAKE_SYSTEM_PROCESSOR},x86_64>:-march=x86-64-v2>)
if(LION_SANITIZE)
  # abseil's headers hold an atomic_thread_fence, which g++ warns of under ThreadSanitizer.
  if(LION_SANITIZE STREQUAL "thread")
    add_compile_options($<$<CXX_COMPILER_ID:GNU>:-Wno-tsan>)
  endif()
  add_compile_options(-fsanitize=${LION_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${LION_SANITIZE})
endif()
if(LION_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
