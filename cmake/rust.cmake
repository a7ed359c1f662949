# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0

# Rust crates as static libraries behind C interfaces. A program links one of them at most: each brings Rust's own library.
find_program(LION_CARGO cargo REQUIRED)
set(LION_RUST_TARGET ${CMAKE_SOURCE_DIR}/build/rust)

# lion_rust_library(NAME DIR WHAT): the crate NAME in DIR, with what it brings in.
function(lion_rust_library name dir what)
  set(library ${LION_RUST_TARGET}/release/lib${name}.a)
  file(GLOB sources CONFIGURE_DEPENDS ${dir}/src/*.rs)
  add_custom_command(
    OUTPUT ${library}
    COMMAND ${LION_CARGO} build --quiet --release --locked --manifest-path ${dir}/Cargo.toml
            --target-dir ${LION_RUST_TARGET}
    DEPENDS ${dir}/Cargo.toml ${dir}/Cargo.lock ${sources}
    COMMENT "cargo build: ${what}"
    VERBATIM)
  add_custom_target(${name}_build DEPENDS ${library})
  add_library(${name} INTERFACE)
  add_dependencies(${name} ${name}_build)
  target_link_libraries(${name} INTERFACE ${library} Threads::Threads ${CMAKE_DL_LIBS} m)
endfunction()

lion_rust_library(lion_hf ${CMAKE_SOURCE_DIR}/model/rust "tokenizers and safetensors")
lion_rust_library(lion_parquet ${CMAKE_SOURCE_DIR}/client/parquet "parquet")
