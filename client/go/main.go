// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// An example to copy: asks a LION server whether it is ready, embeds and classifies the texts given.
//
//	go generate && go build
//	./lion-example --target 127.0.0.1:50051 "a fast web server" "a chess game"
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // lets round_robin watch the health of each replica
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	lionpb "lion-example/lion/v1"
)

//go:generate go build -o bin/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
//go:generate protoc -I ../../proto --plugin bin/protoc-gen-go --plugin bin/protoc-gen-go-grpc --go_out . --go_opt module=lion-example,Mlion/v1/encoder.proto=lion-example/lion/v1 --go-grpc_out . --go-grpc_opt module=lion-example,Mlion/v1/encoder.proto=lion-example/lion/v1 lion/v1/encoder.proto

// All LION clients use this service config (docs/client.md). With a retry policy gRPC waits as long as a refusing server
// asks for, and gives up at once where waiting cannot help.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "healthCheckConfig": {"serviceName": "lion.v1.EncoderService"},
  "methodConfig": [{
    "name": [{"service": "lion.v1.EncoderService"}],
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.2s",
      "maxBackoff": "5s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    }
  }]
}`

// transport is how we reach the server. caFile empty means no TLS.
func transport(caFile string) (credentials.TransportCredentials, error) {
	if caFile == "" {
		return insecure.NewCredentials(), nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", caFile)
	}
	return credentials.NewTLS(&tls.Config{RootCAs: authorities}), nil
}

// dial connects lazily: a wrong address shows at the first call.
func dial(target string, secure credentials.TransportCredentials, apiKey string) (*grpc.ClientConn, error) {
	withKey := func(ctx context.Context) context.Context {
		if apiKey == "" {
			return ctx
		}
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+apiKey)
	}
	return grpc.NewClient(target,
		grpc.WithTransportCredentials(secure),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDisableServiceConfig(), // no other config by way of DNS
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(math.MaxInt32), // a page of token vectors is far beyond 4 MiB
			grpc.MaxRetryRPCBufferSize(64<<20)),    // above 256 KiB, the default, a call would not be tried again
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
			invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
			return invoke(withKey(ctx), method, request, reply, conn, options...)
		}))
}

// unpack reads a vector that travelled as VECTOR_TYPE_FLOAT32_BYTES.
func unpack(vector *lionpb.Vector) []float32 {
	values := make([]float32, len(vector.GetData())/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(vector.GetData()[4*i:]))
	}
	return values
}

func textInputs(texts []string) []*lionpb.Input {
	inputs := make([]*lionpb.Input, len(texts))
	for i, text := range texts {
		inputs[i] = &lionpb.Input{Content: &lionpb.Input_Text{Text: text}}
	}
	return inputs
}

func run(target, caFile, apiKey, model string, texts []string) error {
	secure, err := transport(caFile)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second) // of all that follows, retries included
	defer cancel()

	// Not on the encoder's connection, which hands out no call while its service is not ready.
	healthConn, err := grpc.NewClient(target, grpc.WithTransportCredentials(secure))
	if err != nil {
		return err
	}
	defer healthConn.Close()
	health, err := healthpb.NewHealthClient(healthConn).Check(ctx, &healthpb.HealthCheckRequest{Service: "lion.v1.EncoderService"})
	if err != nil {
		return err
	}
	fmt.Println("health:", health.Status)

	conn, err := dial(target, secure, apiKey)
	if err != nil {
		return err
	}
	defer conn.Close()
	encoder := lionpb.NewEncoderServiceClient(conn)
	embedded, err := encoder.Embed(ctx, &lionpb.EmbedRequest{
		Model:      model,
		Inputs:     textInputs(texts),
		VectorType: lionpb.VectorType_VECTOR_TYPE_FLOAT32_BYTES,
	})
	if err != nil {
		return err
	}
	for i, result := range embedded.Results {
		if result.Error != nil { // this row failed, the others stand
			fmt.Printf("embed %d: %v: %s\n", i, codes.Code(result.Error.Code), result.Error.Message)
			continue
		}
		vector := unpack(result.Vectors[0])
		fmt.Printf("embed %d: %d numbers from %d tokens: %.6f …\n", i, len(vector), result.TokenCount, vector[:2])
	}

	classified, err := encoder.Classify(ctx, &lionpb.ClassifyRequest{Model: model, Inputs: textInputs(texts), TopK: 1})
	if err != nil {
		return err
	}
	for i, result := range classified.Results {
		if result.Error == nil {
			fmt.Printf("classify %d: %s %.4f\n", i, result.Scores[0].Label, result.Scores[0].Score)
		}
	}
	return nil
}

func main() {
	target := flag.String("target", "127.0.0.1:50051", "HOST:PORT")
	caFile := flag.String("tls_ca", "", "PEM file of the authorities that signed the server; empty = no TLS")
	model := flag.String("model", "", "empty = the server's first")
	flag.Parse()
	// A key on the command line could be seen by every user of the machine.
	if err := run(*target, *caFile, os.Getenv("LION_API_KEY"), *model, flag.Args()); err != nil {
		if rpc, ok := status.FromError(err); ok {
			fmt.Fprintf(os.Stderr, "%v: %s\n", rpc.Code(), rpc.Message())
		} else {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}
