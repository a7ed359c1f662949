// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// An example to copy: asks a LION server whether it is ready, embeds and classifies the texts given.
//
//     npm ci
//     node main.js --target 127.0.0.1:50051 "a fast web server" "a chess game"

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

// All LION clients use this service config (docs/client.md). With a retry policy gRPC waits as long as a refusing server
// asks for, and gives up at once where waiting cannot help.
const SERVICE_CONFIG = {
  loadBalancingConfig: [{ round_robin: {} }],
  healthCheckConfig: { serviceName: "lion.v1.EncoderService" },
  methodConfig: [
    {
      name: [{ service: "lion.v1.EncoderService" }],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.2s",
        maxBackoff: "5s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
      },
    },
  ],
};

const proto = grpc.loadPackageDefinition(
  protoLoader.loadSync(["lion/v1/encoder.proto", "grpc/health/v1/health.proto"], {
    includeDirs: [fileURLToPath(new URL("../../proto", import.meta.url))],
    keepCase: true, // names as in the proto file
    enums: String,
    longs: Number,
    defaults: true,
    oneofs: true,
  }),
);

/** The two clients of a server; connects at the first call. caFile empty means no TLS. */
function connect(target, caFile) {
  const credentials = caFile ? grpc.credentials.createSsl(readFileSync(caFile)) : grpc.credentials.createInsecure();
  const options = {
    "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
    "grpc.service_config_disable_resolution": 1, // no other config by way of DNS
    "grpc.max_receive_message_length": -1, // a page of token vectors is far beyond 4 MiB
    "grpc.per_rpc_retry_buffer_size": 64 << 20, // above it a call would not be tried again
  };
  return {
    encoder: new proto.lion.v1.EncoderService(target, credentials, options),
    health: new proto.grpc.health.v1.Health(target, credentials),
  };
}

/** Makes one unary call, with the key, within a deadline that counts its retries. */
function call(client, method, request, { apiKey = "", seconds = 60 } = {}) {
  const metadata = new grpc.Metadata();
  if (apiKey) metadata.set("authorization", `Bearer ${apiKey}`);
  return promisify(client[method]).call(client, request, metadata, { deadline: Date.now() + 1000 * seconds });
}

/** Reads a vector that travelled as VECTOR_TYPE_FLOAT32_BYTES. */
function unpack(vector) {
  return Float32Array.from({ length: vector.data.length / 4 }, (_, i) => vector.data.readFloatLE(4 * i));
}

async function main() {
  const { values, positionals: texts } = parseArgs({
    options: {
      target: { type: "string", default: "127.0.0.1:50051" },
      tls_ca: { type: "string", default: "" },
      model: { type: "string", default: "" },
    },
    allowPositionals: true,
  });
  const apiKey = process.env.LION_API_KEY; // on the command line every user of the machine could see it
  const { encoder, health } = connect(values.target, values.tls_ca);
  try {
    const { status } = await call(health, "Check", { service: "lion.v1.EncoderService" });
    console.log(`health: ${status}`);

    const inputs = texts.map((text) => ({ text }));
    const embed = { model: values.model, inputs, vector_type: "VECTOR_TYPE_FLOAT32_BYTES" };
    const embedded = await call(encoder, "Embed", embed, { apiKey });
    embedded.results.forEach((result, i) => {
      if (result.error) {
        // This row failed, the others stand.
        console.log(`embed ${i}: ${grpc.status[result.error.code]}: ${result.error.message}`);
      } else {
        const vector = unpack(result.vectors[0]);
        const first = [...vector.slice(0, 2)].map((v) => v.toFixed(6)).join(" ");
        console.log(`embed ${i}: ${vector.length} numbers from ${result.token_count} tokens: ${first} …`);
      }
    });

    const classified = await call(encoder, "Classify", { model: values.model, inputs, top_k: 1 }, { apiKey });
    classified.results.forEach((result, i) => {
      if (!result.error) console.log(`classify ${i}: ${result.scores[0].label} ${result.scores[0].score.toFixed(4)}`);
    });
  } finally {
    encoder.close();
    health.close();
  }
}

main().catch((error) => {
  console.error(error.code in grpc.status ? `${grpc.status[error.code]}: ${error.details}` : error.message);
  process.exitCode = 1;
});
