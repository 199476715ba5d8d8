//! Asks who calls by gRPC before a service sees the call.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tonic::Status;

use crate::api::callers::{Caller, Callers, Certified};
use crate::api::status::Told;

/// Lets pass whom we know, and tells the service who that is.
pub(super) async fn admit(
    State(callers): State<Arc<Callers>>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.version() != Version::HTTP_2 {
        return StatusCode::HTTP_VERSION_NOT_SUPPORTED.into_response();
    }
    let certified = request.extensions().get::<Certified>().cloned();
    match callers.known().identify(request.headers(), certified.as_ref()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(unauthenticated) => Status::from(Told::from(unauthenticated)).into_http(),
    }
}

/// Who makes a call that was let pass.
pub(super) fn caller_of<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("nobody asked who calls"))
}
