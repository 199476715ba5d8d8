//! Who may do what: signatures, tokens, policies, limits. All of it is decided here and nothing of
//! it is fetched here: keys, documents and the time are arguments.

pub mod arn;
pub mod authorizer;
pub mod hash;
pub mod identity_source;
pub mod jwt;
pub mod origin;
pub mod pattern;
pub mod policy;
pub mod principal;
pub mod quota;
pub mod sigv4;
pub mod throttle;
pub mod time;
pub mod token_source;
pub mod usage_plan;
