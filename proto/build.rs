//! Compiles the gRPC definitions with a protobuf compiler written in Rust, so that no `protoc` is needed.

use std::error::Error;

const FILES: [&str; 3] =
    ["proto/headwater/v1/data.proto", "proto/headwater/v1/admin.proto", "proto/headwater/v1/peer.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-changed=proto/headwater/v1/common.proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        // Record bytes stay slices of the message they arrived in.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
