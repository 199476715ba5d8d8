//! From the bytes of a message to the name of its route.

pub mod error_frame;
pub mod expression;
pub mod json;
pub mod jsonpath;
pub mod quoted;
pub mod stringify;
pub mod table;
pub mod variable;
