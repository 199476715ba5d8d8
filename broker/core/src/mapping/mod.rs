//! What a custom (non-proxy) integration does with a message besides its templates: which template
//! and which response it takes, which parameters it passes on, and what becomes of the bytes.
//!
//! ```text
//! message ─▶ template by key ─▶ passthrough ─▶ content ─▶ backend, with parameters
//! client  ◀─ content ◀─ template by key ◀─ response by key ◀─ answer
//! ```

pub mod content;
pub mod custom;
pub mod declared;
pub mod facts;
pub mod parameters;
pub mod responses;
pub mod templates;
pub mod uri;
mod value;
