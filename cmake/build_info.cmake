# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0

# server/build_info.h's two strings: the project's version and the commit it was built from, which the environment's LION_COMMIT
# names where there is no git (in the image's build), else "unknown".
set(LION_COMMIT "$ENV{LION_COMMIT}")
if(NOT LION_COMMIT)
  execute_process(COMMAND git rev-parse --short=12 HEAD WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
                  OUTPUT_VARIABLE LION_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT LION_COMMIT)
  set(LION_COMMIT unknown)
endif()
