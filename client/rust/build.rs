// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

//! Generates lion.v1 from the service's own proto file.
fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".lion.v1.Vector.data") // packed vectors stay slices of the answer
        .compile_protos(&["../../proto/lion/v1/encoder.proto"], &["../../proto"])
}
