//! The wire: what backends and nodes say, compiled from the `.proto` files beside this crate.

/// What backends call, and what they implement.
#[allow(clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("posthorn.v1");
}

/// What nodes say to each other and keep in their logs.
pub mod cluster {
    #[allow(clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("posthorn.cluster.v1");
    }
}

/// The encoded `FileDescriptorSet` of every file, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/posthorn.bin"));
