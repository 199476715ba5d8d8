//! Posthorn: a clustered WebSocket broker.
//!
//! The rooms, in floor order: a room names only rooms above it in this list, and `node` names all.

pub mod clock;
pub mod descriptors;
pub mod draining;

pub mod config;
pub mod telemetry;
pub mod tls;

pub mod fabric;
pub mod integration;

pub mod consensus;

pub mod exchange;

mod operator;

pub mod api;
pub mod edge;

mod reload;

pub mod node;

pub mod cli;
