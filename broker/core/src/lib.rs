//! Everything the broker decides, and nothing it does.
//!
//! No `async`, no clock, no chance, no I/O, no order that depends on hashing: time and random bits
//! are arguments, so that the same story is always told the same way.

pub mod access_log;
pub mod address;
pub mod admission;
pub mod auth;
pub mod close;
pub mod connection;
pub mod directory;
pub mod drain;
pub mod event;
pub mod feed;
pub mod frames;
pub mod group;
pub mod ids;
pub mod listing;
pub mod liveness;
pub mod mapping;
pub mod membership;
pub mod message;
pub mod model;
pub mod outbox;
pub mod placement;
pub mod proxies;
pub mod recent;
pub mod roster;
pub mod route;
pub mod template;
pub mod tenure;
