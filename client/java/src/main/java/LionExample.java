// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthGrpc;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import lion.v1.Encoder.ClassifyRequest;
import lion.v1.Encoder.ClassifyResult;
import lion.v1.Encoder.EmbedRequest;
import lion.v1.Encoder.EmbedResult;
import lion.v1.Encoder.Input;
import lion.v1.Encoder.Vector;
import lion.v1.Encoder.VectorType;
import lion.v1.EncoderServiceGrpc;
import lion.v1.EncoderServiceGrpc.EncoderServiceBlockingStub;

/**
 * An example to copy: asks a LION server whether it is ready, embeds and classifies the texts given.
 *
 * <pre>
 * mvn package
 * java -cp 'target/classes:target/lib/*' LionExample --target 127.0.0.1:50051 "a fast web server" "a chess game"
 * </pre>
 */
public final class LionExample {
  private static final String SERVICE = "lion.v1.EncoderService";

  /**
   * All LION clients use this service config (docs/client.md). With a retry policy gRPC waits as long as a refusing server
   * asks for, and gives up at once where waiting cannot help. Numbers are doubles: gRPC takes the map as parsed JSON.
   */
  static final Map<String, ?> SERVICE_CONFIG =
      Map.of(
          "loadBalancingConfig", List.of(Map.of("round_robin", Map.of())),
          "healthCheckConfig", Map.of("serviceName", SERVICE),
          "methodConfig",
              List.of(
                  Map.of(
                      "name", List.of(Map.of("service", SERVICE)),
                      "retryPolicy",
                          Map.of(
                              "maxAttempts", 4.0,
                              "initialBackoff", "0.2s",
                              "maxBackoff", "5s",
                              "backoffMultiplier", 2.0,
                              "retryableStatusCodes", List.of("UNAVAILABLE", "RESOURCE_EXHAUSTED")))));

  /** An empty caFile means no TLS. */
  static ChannelCredentials credentials(String caFile) throws IOException {
    return caFile.isEmpty()
        ? InsecureChannelCredentials.create()
        : TlsChannelCredentials.newBuilder().trustManager(new File(caFile)).build();
  }

  /** Connects at the first call. */
  static ManagedChannel connect(String target, ChannelCredentials credentials) {
    return Grpc.newChannelBuilder(target, credentials)
        .defaultServiceConfig(SERVICE_CONFIG)
        .disableServiceConfigLookUp() // no other config by way of DNS
        .enableRetry()
        .perRpcBufferLimit(64 << 20) // above 1 MiB, the default, a call would not be tried again
        .retryBufferSize(256 << 20)
        .maxInboundMessageSize(Integer.MAX_VALUE) // a page of token vectors is far beyond 4 MiB
        .build();
  }

  static EncoderServiceBlockingStub encoder(ManagedChannel channel, String apiKey) {
    EncoderServiceBlockingStub stub = EncoderServiceGrpc.newBlockingStub(channel);
    if (apiKey == null || apiKey.isEmpty()) {
      return stub;
    }
    Metadata key = new Metadata();
    key.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + apiKey);
    return stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(key));
  }

  /** Reads a vector that travelled as VECTOR_TYPE_FLOAT32_BYTES. */
  static float[] unpack(Vector vector) {
    FloatBuffer packed = vector.getData().asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
    float[] values = new float[packed.remaining()];
    packed.get(values);
    return values;
  }

  /** Not on the encoder's channel, which hands out no connection while its service is not ready. */
  static void showHealth(ManagedChannel channel) {
    HealthCheckRequest ask = HealthCheckRequest.newBuilder().setService(SERVICE).build();
    System.out.println(
        "health: " + HealthGrpc.newBlockingStub(channel).withDeadlineAfter(60, TimeUnit.SECONDS).check(ask).getStatus());
  }

  static void run(ManagedChannel channel, String apiKey, String model, List<String> texts) {
    List<Input> inputs = texts.stream().map(text -> Input.newBuilder().setText(text).build()).toList();
    EmbedRequest embed =
        EmbedRequest.newBuilder()
            .setModel(model)
            .addAllInputs(inputs)
            .setVectorType(VectorType.VECTOR_TYPE_FLOAT32_BYTES)
            .build();
    // A deadline counts from its call, so each call takes its own.
    List<EmbedResult> embedded =
        encoder(channel, apiKey).withDeadlineAfter(60, TimeUnit.SECONDS).embed(embed).getResultsList();
    for (int i = 0; i < embedded.size(); i++) {
      EmbedResult result = embedded.get(i);
      if (result.hasError()) { // this row failed, the others stand
        Status.Code code = Status.fromCodeValue(result.getError().getCode()).getCode();
        System.out.printf("embed %d: %s: %s%n", i, code, result.getError().getMessage());
      } else {
        float[] vector = unpack(result.getVectors(0));
        System.out.printf(
            Locale.ROOT, "embed %d: %d numbers from %d tokens: %.6f %.6f …%n", i, vector.length, result.getTokenCount(), vector[0], vector[1]);
      }
    }

    ClassifyRequest classify = ClassifyRequest.newBuilder().setModel(model).addAllInputs(inputs).setTopK(1).build();
    List<ClassifyResult> classified =
        encoder(channel, apiKey).withDeadlineAfter(60, TimeUnit.SECONDS).classify(classify).getResultsList();
    for (int i = 0; i < classified.size(); i++) {
      if (!classified.get(i).hasError()) {
        System.out.printf(
            Locale.ROOT, "classify %d: %s %.4f%n", i, classified.get(i).getScores(0).getLabel(), classified.get(i).getScores(0).getScore());
      }
    }
  }

  public static void main(String[] args) throws InterruptedException {
    String target = "127.0.0.1:50051";
    String caFile = "";
    String model = "";
    List<String> texts = new ArrayList<>();
    for (int i = 0; i < args.length; i++) {
      switch (args[i]) {
        case "--target" -> target = args[++i];
        case "--tls_ca" -> caFile = args[++i];
        case "--model" -> model = args[++i];
        default -> texts.add(args[i]);
      }
    }
    String apiKey = System.getenv("LION_API_KEY"); // on the command line every user of the machine could see it
    int exitCode = 0;
    try {
      ChannelCredentials credentials = credentials(caFile);
      ManagedChannel health = Grpc.newChannelBuilder(target, credentials).build();
      ManagedChannel channel = connect(target, credentials);
      try {
        showHealth(health);
        run(channel, apiKey, model, texts);
      } finally {
        health.shutdownNow().awaitTermination(10, TimeUnit.SECONDS);
        channel.shutdownNow().awaitTermination(10, TimeUnit.SECONDS);
      }
    } catch (StatusRuntimeException error) {
      System.err.println(error.getStatus().getCode() + ": " + error.getStatus().getDescription());
      exitCode = 1;
    } catch (IOException error) {
      System.err.println(error);
      exitCode = 1;
    }
    System.exit(exitCode);
  }

  private LionExample() {}
}
