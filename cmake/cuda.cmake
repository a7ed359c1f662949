# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0

# The CUDA backend's compiler and libraries: the wheels of cmake/cuda-requirements.txt, in the folder that holds torch too.
# nvcc is called by hand: CMake's CUDA language insists on a whole toolkit, and these wheels are parts of one.
set(LION_CUDA_ROOT ${LION_TORCH_ROOT}/nvidia/cu13)
set(LION_CUDA_ARCH "arch=compute_90a,code=sm_90a" CACHE STRING "What nvcc's -gencode takes: H100 and H200")
set(LION_NVCC ${LION_CUDA_ROOT}/bin/nvcc)
set(LION_CUTLASS_INCLUDE ${LION_TORCH_ROOT}/cutlass_library/source/include)  # of the nvidia-cutlass wheel
if(NOT EXISTS ${LION_CUTLASS_INCLUDE}/cutlass/cutlass.h)
  message(FATAL_ERROR "LION_CUDA needs ${LION_CUTLASS_INCLUDE}: install cmake/cuda-requirements.txt with pip --no-deps")
endif()
foreach(part bin/nvcc nvvm/bin/cicc include/cublasLt.h lib/libcudart.so.13 lib/libcublasLt.so.13)
  if(NOT EXISTS ${LION_CUDA_ROOT}/${part})
    message(FATAL_ERROR "LION_CUDA needs ${LION_CUDA_ROOT}/${part}: install cmake/cuda-requirements.txt with pip --no-deps")
  endif()
endforeach()

# Headers, cudart and cuBLASLt for C++ files.
add_library(lion_cuda_toolkit INTERFACE)
target_include_directories(lion_cuda_toolkit SYSTEM INTERFACE ${LION_CUDA_ROOT}/include)
target_link_libraries(lion_cuda_toolkit INTERFACE
  ${LION_CUDA_ROOT}/lib/libcublasLt.so.13 ${LION_CUDA_ROOT}/lib/libcudart.so.13)

# lion_cuda_objects(VARIABLE SOURCES...): compiles .cu files and puts their objects' paths into VARIABLE.
function(lion_cuda_objects variable)
  set(host_options -fPIC,-Wall,-Wno-unknown-pragmas)
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL x86_64)
    string(APPEND host_options ,-march=x86-64-v2)
  endif()
  set(objects)
  foreach(source IN LISTS ARGN)
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
    cmake_path(GET source FILENAME name)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
    add_custom_command(
      OUTPUT ${object}
      COMMAND ${LION_NVCC} -std=c++20 -O3 -lineinfo -gencode=${LION_CUDA_ARCH} -ccbin ${CMAKE_CXX_COMPILER}
              -I${CMAKE_SOURCE_DIR} -isystem ${LION_CUTLASS_INCLUDE} -Xcompiler ${host_options} -MD -MF ${object}.d -c ${source} -o ${object}
      DEPENDS ${source}
      DEPFILE ${object}.d
      COMMENT "nvcc ${name}"
      VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  set(${variable} ${objects} PARENT_SCOPE)
endfunction()
