//! `posthorn.v1.AdminService`: what operators ask for, if they may.

use std::sync::Arc;

use posthorn_core::ids::NodeId;
use posthorn_proto::v1::admin_service_server::AdminService;
use posthorn_proto::v1::{
    DrainNodeRequest, DrainNodeResponse, GetClusterRequest, GetClusterResponse, RemoveNodeRequest,
    RemoveNodeResponse, TailRequest, TailResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;

use crate::api::callers::Denied;
use crate::api::connections::id_of;
use crate::api::guard::caller_of;
use crate::api::status::Told;
use crate::api::tail;
use crate::operator::Operator;

pub(super) struct Administration {
    operator: Arc<Operator>,
}

impl Administration {
    pub(super) fn new(operator: Arc<Operator>) -> Administration {
        Administration { operator }
    }
}

#[tonic::async_trait]
impl AdminService for Administration {
    async fn get_cluster(
        &self,
        request: Request<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        judge(&request)?;
        let cluster = self.operator.survey().await;
        Ok(Response::new(GetClusterResponse { cluster: Some(cluster) }))
    }

    async fn drain_node(
        &self,
        request: Request<DrainNodeRequest>,
    ) -> Result<Response<DrainNodeResponse>, Status> {
        judge(&request)?;
        let node = NodeId(request.get_ref().node_id);
        self.operator.drain(node).await.map_err(Told::from)?;
        Ok(Response::new(DrainNodeResponse {}))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        judge(&request)?;
        let node = NodeId(request.get_ref().node_id);
        self.operator.remove(node).await.map_err(Told::from)?;
        Ok(Response::new(RemoveNodeResponse {}))
    }

    type TailStream = ReceiverStream<Result<TailResponse, Status>>;

    async fn tail(
        &self,
        request: Request<TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        judge(&request)?;
        let caller = caller_of(&request)?;
        let TailRequest { connection_id, payloads } = request.into_inner();
        let id = id_of(&connection_id).map_err(Told::from)?;
        let onlooker = self.operator.tail(id, payloads).await.map_err(Told::from)?;
        info!(caller = caller.name(), connection = %id, payloads, "somebody looks on at a connection");
        let (events, shown) = mpsc::channel(tail::EVENTS_MAX);
        tokio::spawn(tail::show(self.operator.clone(), onlooker, events));
        Ok(Response::new(ReceiverStream::new(shown)))
    }
}

/// Whether the caller may administer. The account is not charged: an operator must not be kept out by
/// what backends call.
fn judge<T>(request: &Request<T>) -> Result<(), Status> {
    let caller = caller_of(request)?;
    if !caller.may_administer() {
        return Err(Told::from(Denied).into());
    }
    caller.take().map_err(Told::from)?;
    Ok(())
}
