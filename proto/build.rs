//! Compiles the protocol buffers without an outside compiler.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "posthorn/v1/admin_service.proto",
        "posthorn/v1/connection_service.proto",
        "posthorn/v1/integration_service.proto",
        "posthorn/cluster/v1/cluster.proto",
        "posthorn/cluster/v1/fabric.proto",
    ];
    println!("cargo::rerun-if-changed=posthorn");
    let descriptors = protox::compile(files, ["."])?;

    let out_dir = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("posthorn.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
