//! Posthorn: a clustered WebSocket broker.
