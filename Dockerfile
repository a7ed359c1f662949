# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
#
# The container image: lion-server, lion-client and the demo model; no shell, no package manager, no compiler, no Python.
#
#   ./dev image             the CPU's, by docker or buildah;  ./dev image --cuda  for NVIDIA GPUs
#   docker run --rm --read-only -p 50051:50051 -p 9464:9464 lion-serve
#   docker run --rm --read-only -p 50051:50051 -v "$PWD/my-model:/models/mine:ro" lion-serve mine=/models/mine
#
# What is inside and how large: docs/operations.md. BASE_IMAGE builds and gives the C library; nothing else of it remains.
ARG BASE_IMAGE=debian:12-slim

# -------------------------------------------------------------------------------------------------- tools and sources

FROM ${BASE_IMAGE} AS tools
WORKDIR /src
# Only what says which tools are needed, so that a change of code does not fetch them again.
COPY dev ./
COPY cmake/torch-requirements.txt cmake/cuda-requirements.txt cmake/
RUN ./dev setup build

FROM tools AS source
COPY CMakeLists.txt CMakePresets.json LICENSE ./
COPY cmake/ cmake/
COPY proto/ proto/
COPY model/ model/
COPY server/ server/
COPY client/ client/
COPY tools/image_root.sh tools/
COPY demo/model/ /image/model/models/demo/
ARG REVISION=unknown
ENV LION_COMMIT=${REVISION}

# ------------------------------------------------------------------------------------------------- what all images share

FROM scratch AS run
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="LION Serve" \
      org.opencontainers.image.description="Embeddings and class scores over gRPC by LION encoders" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
ENV PATH=/usr/local/bin
USER 65532:65532
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["lion-server"]
CMD ["demo=/models/demo"]
# Ready to serve. With TLS, give docker run --health-cmd with lion-client's --tls flags.
HEALTHCHECK --interval=10s --timeout=6s --start-period=120s --retries=3 \
  CMD ["lion-client", "health", "lion.v1.EncoderService"]

# ------------------------------------------------------------------------------------------------------------------ cpu

FROM source AS build-cpu
RUN ./dev build release -DLION_TESTS=OFF lion-server lion-client && tools/image_root.sh build/release /image

FROM run AS cpu
COPY --from=build-cpu /image/libraries/ /
COPY --from=build-cpu /image/model/ /
COPY --from=build-cpu /image/programs/ /

# ----------------------------------------------------------------------------------------------------------------- cuda

FROM source AS build-cuda
RUN ./dev build --cuda -DLION_TESTS=OFF lion-server lion-client && tools/image_root.sh build/release-cuda /image

FROM run AS cuda
# For the NVIDIA container runtime, which puts the driver's libraries into one of these folders.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/lib64
COPY --from=build-cuda /image/libraries/ /
COPY --from=build-cuda /image/model/ /
COPY --from=build-cuda /image/programs/ /

# What a build without --target makes.
FROM cpu
