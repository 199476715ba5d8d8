//! Who may do what: signatures, tokens, policies, limits. All of it is decided here and nothing of
//! it is fetched here: keys, documents and the time are arguments.

pub mod hash;
pub mod sigv4;
pub mod time;
