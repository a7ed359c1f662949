# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0

# model/rust: the tokenizers and safetensors crates as one static library behind a C interface (model/rust/lion_hf.h).
find_program(LION_CARGO cargo REQUIRED)
set(LION_RUST_DIR ${CMAKE_SOURCE_DIR}/model/rust)
set(LION_RUST_TARGET ${CMAKE_SOURCE_DIR}/build/rust)
set(LION_RUST_LIB ${LION_RUST_TARGET}/release/liblion_hf.a)
file(GLOB LION_RUST_SOURCES CONFIGURE_DEPENDS ${LION_RUST_DIR}/src/*.rs)
add_custom_command(
  OUTPUT ${LION_RUST_LIB}
  COMMAND ${LION_CARGO} build --quiet --release --locked --manifest-path ${LION_RUST_DIR}/Cargo.toml
          --target-dir ${LION_RUST_TARGET}
  DEPENDS ${LION_RUST_DIR}/Cargo.toml ${LION_RUST_DIR}/Cargo.lock ${LION_RUST_SOURCES}
  COMMENT "cargo build: tokenizers and safetensors"
  VERBATIM)
add_custom_target(lion_hf_build DEPENDS ${LION_RUST_LIB})
add_library(lion_hf INTERFACE)
add_dependencies(lion_hf lion_hf_build)
target_link_libraries(lion_hf INTERFACE ${LION_RUST_LIB} Threads::Threads ${CMAKE_DL_LIBS} m)
