//! What an integration is told of a connection, and what it answers: API Gateway's Lambda proxy
//! events (payload format 1.0), to the order of their members.

pub mod answer;
pub mod connection_info;
pub mod context;
pub mod fields;
pub mod handshake;
pub mod ids;
pub mod phrases;
pub mod proxy;
pub mod time;
