// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

//! An example to copy: asks a LION server whether it is ready, embeds and classifies the texts given.
//!
//!     cargo run --release -- --target http://127.0.0.1:50051 "a fast web server" "a chess game"

use std::time::Duration;
use std::{env, fs, process};

use tokio::time::{Instant, sleep};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

mod lion {
    tonic::include_proto!("lion.v1");
}
use lion::{ClassifyRequest, EmbedRequest, Input, Vector, VectorType};
use lion::{encoder_service_client::EncoderServiceClient, input::Content};

type Error = Box<dyn std::error::Error>;
const SERVICE: &str = "lion.v1.EncoderService";

/// The encoder's client, for calls that go with a key and are tried again. A clone shares the connection.
#[derive(Clone)]
struct Lion {
    encoder: EncoderServiceClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
}

/// Connects at the first call. https:// in the target means TLS; ca_file empty: by the system's authorities.
fn connect(target: &str, ca_file: &str) -> Result<Channel, Error> {
    let mut endpoint = Endpoint::from_shared(target.to_string())?.connect_timeout(Duration::from_secs(10));
    if target.starts_with("https://") {
        let tls = match ca_file {
            "" => ClientTlsConfig::new().with_native_roots(),
            file => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(file)?)),
        };
        endpoint = endpoint.tls_config(tls)?;
    }
    Ok(endpoint.connect_lazy())
}

impl Lion {
    fn new(channel: Channel, api_key: &str) -> Result<Lion, Error> {
        let authorization = match api_key {
            "" => None,
            key => Some(format!("Bearer {key}").parse()?),
        };
        // A page of token vectors is far beyond tonic's 4 MiB.
        let encoder = EncoderServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        Ok(Lion { encoder, authorization })
    }

    /// Makes one call of a request. tonic has no retry policy, so the one that all LION clients use (docs/client.md) stands
    /// here: up to four attempts within the deadline, as far apart as the server asks, none where it says that waiting
    /// cannot help.
    async fn call<Req, Res, F>(&self, request: Req, deadline: Duration, send: F) -> Result<Res, Status>
    where
        Req: Clone,
        F: AsyncFn(EncoderServiceClient<Channel>, Request<Req>) -> Result<Response<Res>, Status>,
    {
        let ends = Instant::now() + deadline;
        let mut backoff = Duration::from_millis(200);
        let mut attempt = 1;
        loop {
            let mut attempted = Request::new(request.clone());
            attempted.set_timeout(ends - Instant::now());
            if let Some(value) = &self.authorization {
                attempted.metadata_mut().insert("authorization", value.clone());
            }
            let status = match send(self.encoder.clone(), attempted).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let pushback = status
                .metadata()
                .get("grpc-retry-pushback-ms")
                .map(|v| v.to_str().unwrap_or("-1").parse::<i64>());
            let pause = match pushback {
                None => backoff,
                Some(Ok(milliseconds)) if milliseconds >= 0 => Duration::from_millis(milliseconds as u64),
                Some(_) => return Err(status),
            };
            let may_retry = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
            if !may_retry || attempt == 4 || Instant::now() + pause >= ends {
                return Err(status);
            }
            sleep(pause).await;
            backoff = (backoff * 2).min(Duration::from_secs(5));
            attempt += 1;
        }
    }
}

/// Reads a vector that travelled as FLOAT32_BYTES.
fn unpack(vector: &Vector) -> Vec<f32> {
    vector
        .data
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

async fn run(target: &str, ca_file: &str, api_key: &str, model: &str, texts: &[String]) -> Result<(), Error> {
    let channel = connect(target, ca_file)?;
    let deadline = Duration::from_secs(60);

    let mut request = Request::new(HealthCheckRequest {
        service: SERVICE.to_string(),
    });
    request.set_timeout(deadline);
    let health = HealthClient::new(channel.clone()).check(request).await?.into_inner();
    println!("health: {}", health.status().as_str_name());

    let lion = Lion::new(channel, api_key)?;
    let inputs: Vec<Input> = texts
        .iter()
        .map(|text| Input {
            content: Some(Content::Text(text.clone())),
        })
        .collect();
    let request = EmbedRequest {
        model: model.to_string(),
        inputs: inputs.clone(),
        vector_type: VectorType::Float32Bytes as i32,
        ..Default::default()
    };
    let embedded = lion
        .call(request, deadline, async |mut encoder, request| {
            encoder.embed(request).await
        })
        .await?;
    for (i, result) in embedded.results.iter().enumerate() {
        match &result.error {
            Some(error) => println!("embed {i}: {:?}: {}", Code::from(error.code), error.message), // the others stand
            None => {
                let vector = unpack(&result.vectors[0]);
                println!(
                    "embed {i}: {} numbers from {} tokens: {:.6?} …",
                    vector.len(),
                    result.token_count,
                    &vector[..2]
                );
            }
        }
    }

    let request = ClassifyRequest {
        model: model.to_string(),
        inputs,
        top_k: 1,
        ..Default::default()
    };
    let classified = lion
        .call(request, deadline, async |mut encoder, request| {
            encoder.classify(request).await
        })
        .await?;
    for (i, result) in classified.results.iter().enumerate() {
        if let Some(best) = result.scores.first() {
            println!("classify {i}: {} {:.4}", best.label, best.score);
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() {
    let (mut target, mut ca_file, mut model) = ("http://127.0.0.1:50051".to_string(), String::new(), String::new());
    let mut texts = Vec::new();
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--target" => target = arguments.next().unwrap_or_default(),
            "--tls_ca" => ca_file = arguments.next().unwrap_or_default(),
            "--model" => model = arguments.next().unwrap_or_default(),
            _ => texts.push(argument),
        }
    }
    // A key on the command line could be seen by every user of the machine.
    let api_key = env::var("LION_API_KEY").unwrap_or_default();
    if let Err(error) = run(&target, &ca_file, &api_key, &model, &texts).await {
        match error.downcast_ref::<Status>() {
            Some(status) => eprintln!("{:?}: {}", status.code(), status.message()),
            None => eprintln!("{error}"),
        }
        process::exit(1);
    }
}
