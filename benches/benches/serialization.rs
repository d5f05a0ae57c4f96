//! The envelope's codecs: encode and decode, JSON and MessagePack, 128 bytes and 4 KiB, beside the bare derive and the
//! untyped `Value` of the same libraries.
//!
//! `cargo bench -p dsv2-benches --bench serialization`
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dsv2_core::{Clock, Format, Limits, RawTimestamp, Request, RequestBody, RequestExt, SessionId};
use serde::{Deserialize, Serialize};

/// What the wire carries, as a plain derive would write it.
#[derive(Serialize, Deserialize)]
struct Plain {
    service: String,
    data: PlainData,
}

#[derive(Serialize, Deserialize)]
struct PlainData {
    user: String,
    channel: String,
    message: String,
    timestamp: i64,
    clock: u64,
    session: String,
    request: u64,
}

fn request(format: Format, bytes: usize) -> Request {
    let name = "a fixed name is valid";
    Request {
        format,
        timestamp: Some(RawTimestamp::Integer(1_795_407_353_924)),
        clock: Clock::new(123_456),
        ext: RequestExt { session: Some(SessionId::new(Clock::ZERO, 7)), number: Some(42), ..RequestExt::default() },
        body: RequestBody::Publish {
            user: "ana".parse().expect(name),
            channel: "general".parse().expect(name),
            message: "x".repeat(bytes),
        },
    }
}

fn codecs(c: &mut Criterion) {
    for format in [Format::Json, Format::MsgPack] {
        for bytes in [128, 4_096] {
            let request = request(format, bytes);
            let body = request.encode();
            let plain: Plain = match format {
                Format::Json => serde_json::from_slice(&body).expect("our own bytes"),
                Format::MsgPack => rmp_serde::from_slice(&body).expect("our own bytes"),
            };
            let mut group = c.benchmark_group(format!("{format:?}/{bytes}"));
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_function(BenchmarkId::new("encode", "typed"), |b| b.iter(|| black_box(&request).encode()));
            group.bench_function(BenchmarkId::new("decode", "typed"), |b| {
                b.iter(|| Request::decode(black_box(&body), &Limits::default()).expect("our own bytes"));
            });
            match format {
                Format::Json => {
                    let value: serde_json::Value = serde_json::from_slice(&body).expect("our own bytes");
                    group.bench_function(BenchmarkId::new("encode", "derive"), |b| {
                        b.iter(|| serde_json::to_vec(black_box(&plain)))
                    });
                    group.bench_function(BenchmarkId::new("encode", "value"), |b| {
                        b.iter(|| serde_json::to_vec(black_box(&value)))
                    });
                    group.bench_function(BenchmarkId::new("decode", "derive"), |b| {
                        b.iter(|| serde_json::from_slice::<Plain>(black_box(&body)));
                    });
                    group.bench_function(BenchmarkId::new("decode", "value"), |b| {
                        b.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(&body)));
                    });
                }
                Format::MsgPack => {
                    let value: rmpv::Value = rmp_serde::from_slice(&body).expect("our own bytes");
                    group.bench_function(BenchmarkId::new("encode", "derive"), |b| {
                        b.iter(|| rmp_serde::to_vec_named(black_box(&plain)))
                    });
                    group.bench_function(BenchmarkId::new("encode", "value"), |b| {
                        b.iter(|| rmp_serde::to_vec(black_box(&value)))
                    });
                    group.bench_function(BenchmarkId::new("decode", "derive"), |b| {
                        b.iter(|| rmp_serde::from_slice::<Plain>(black_box(&body)));
                    });
                    group.bench_function(BenchmarkId::new("decode", "value"), |b| {
                        b.iter(|| rmp_serde::from_slice::<rmpv::Value>(black_box(&body)));
                    });
                }
            }
            group.finish();
        }
    }
}

criterion_group!(benches, codecs);
criterion_main!(benches);
