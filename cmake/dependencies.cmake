# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0

# What comes from outside. Debian 12 carries all of it but LibTorch, which is the torch wheel (./dev setup installs both).
find_package(Threads REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(Protobuf REQUIRED)  # Debian 12 ships no CONFIG file for protobuf 3.21
find_package(gRPC CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(OpenSSL REQUIRED)
find_library(LION_MICROHTTPD_LIBRARY microhttpd REQUIRED)
find_path(LION_MICROHTTPD_INCLUDE microhttpd.h REQUIRED)
find_package(JPEG REQUIRED)
find_package(PNG REQUIRED)
find_library(LION_WEBP_LIBRARY webp REQUIRED)
find_library(LION_WEBPDEMUX_LIBRARY webpdemux REQUIRED)
find_path(LION_WEBP_INCLUDE webp/decode.h REQUIRED)
find_library(LION_HWY_LIBRARY hwy REQUIRED)
find_path(LION_HWY_INCLUDE hwy/highway.h REQUIRED)
find_program(LION_GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
find_program(LION_PROTOC protoc REQUIRED)
if(LION_TESTS)
  find_package(GTest CONFIG REQUIRED)
endif()

add_library(lion_microhttpd INTERFACE)
target_include_directories(lion_microhttpd SYSTEM INTERFACE ${LION_MICROHTTPD_INCLUDE})
target_link_libraries(lion_microhttpd INTERFACE ${LION_MICROHTTPD_LIBRARY})

# Debian 12's libwebp has no CONFIG file.
add_library(lion_webp INTERFACE)
target_include_directories(lion_webp SYSTEM INTERFACE ${LION_WEBP_INCLUDE})
target_link_libraries(lion_webp INTERFACE ${LION_WEBPDEMUX_LIBRARY} ${LION_WEBP_LIBRARY})

add_library(lion_hwy INTERFACE)
target_include_directories(lion_hwy SYSTEM INTERFACE ${LION_HWY_INCLUDE})
target_link_libraries(lion_hwy INTERFACE ${LION_HWY_LIBRARY})

# LibTorch, CPU part only: libtorch_cpu and libc10 of the wheel. Linked by model/ and by nothing else.
if(NOT LION_TORCH_ROOT)
  file(GLOB LION_TORCH_FOUND ${CMAKE_SOURCE_DIR}/build/venv/lib/python3*/site-packages)
  set(LION_TORCH_ROOT "${LION_TORCH_FOUND}" CACHE PATH "" FORCE)
endif()
if(NOT EXISTS ${LION_TORCH_ROOT}/torch/lib/libtorch_cpu.so)
  message(FATAL_ERROR "No LibTorch under LION_TORCH_ROOT='${LION_TORCH_ROOT}': run ./dev setup, or point it at the "
                      "site-packages of a torch 2.11.0 wheel")
endif()
add_library(lion_torch INTERFACE)
target_include_directories(lion_torch SYSTEM INTERFACE ${LION_TORCH_ROOT}/torch/include)
target_link_libraries(lion_torch INTERFACE
  ${LION_TORCH_ROOT}/torch/lib/libtorch_cpu.so ${LION_TORCH_ROOT}/torch/lib/libc10.so)
# libtorch_cpu of the wheel needs two small CUDA libraries even where nothing runs on a GPU.
file(GLOB LION_CUDA_STUBS ${LION_TORCH_ROOT}/nvidia/cu13/lib)
set(LION_TORCH_RPATH "${LION_TORCH_ROOT}/torch/lib;${LION_CUDA_STUBS}")
set(CMAKE_BUILD_RPATH "${LION_TORCH_RPATH}")
target_link_options(lion_torch INTERFACE -Wl,-rpath-link,${LION_TORCH_ROOT}/torch/lib)
foreach(dir IN LISTS LION_CUDA_STUBS)
  target_link_options(lion_torch INTERFACE -Wl,-rpath-link,${dir})
endforeach()
