//! A chat room: what one says, all others hear. By gRPC in both directions.
//!
//!     backend 127.0.0.1:9000 http://127.0.0.1:8081

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::handle_event_request::Event;
use posthorn_proto::v1::handle_event_response::Payload as Reply;
use posthorn_proto::v1::integration_service_server::{
    IntegrationService, IntegrationServiceServer,
};
use posthorn_proto::v1::message_event::Payload as Said;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{HandleEventRequest, HandleEventResponse, PostToConnectionRequest};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

struct Room {
    posthorn: ConnectionServiceClient<Channel>,
    authorization: Option<AsciiMetadataValue>,
    /// Names, by connection ID. Where several processes are the backend, this is a table that they
    /// share.
    members: Mutex<BTreeMap<String, String>>,
}

#[tonic::async_trait]
impl IntegrationService for Room {
    async fn handle_event(
        &self,
        request: Request<HandleEventRequest>,
    ) -> Result<Response<HandleEventResponse>, Status> {
        let HandleEventRequest { context, event, .. } = request.into_inner();
        let id = context.unwrap_or_default().connection_id;
        let answer = match event {
            Some(Event::Connect(connect)) => self.connect(id, &connect.query),
            Some(Event::Message(message)) => match message.payload {
                Some(Said::Text(text)) => self.message(&id, &text).await?,
                _ => return Err(Status::invalid_argument("not a text")),
            },
            Some(Event::Disconnect(_)) => self.disconnect(&id),
            None => return Err(Status::invalid_argument("no event that is known here")),
        };
        Ok(Response::new(answer))
    }
}

impl Room {
    fn connect(&self, id: String, query: &str) -> HandleEventResponse {
        let mut parameters = query.split('&').filter_map(|pair| pair.split_once('='));
        let Some((_, name)) = parameters.find(|(key, _)| *key == "name") else {
            return answer(400, Some(json!({ "message": "say who you are: ?name=…" })));
        };
        self.members().insert(id, name.to_owned());
        answer(200, None)
    }

    async fn message(&self, id: &str, text: &str) -> Result<HandleEventResponse, Status> {
        let said: Value = serde_json::from_str(text)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let members = self.members().clone();
        let text = json!({ "from": members.get(id), "text": said["text"] }).to_string();
        let mut heard_by = 0;
        for member in members.keys().filter(|member| *member != id) {
            heard_by += u32::from(self.post(member, &text).await?);
        }
        Ok(answer(200, Some(json!({ "heard_by": heard_by }))))
    }

    fn disconnect(&self, id: &str) -> HandleEventResponse {
        // It may be told twice, so that it must not matter.
        self.members().remove(id);
        answer(200, None)
    }

    /// Whether it arrived at the node that holds the connection.
    async fn post(&self, id: &str, text: &str) -> Result<bool, Status> {
        let mut request = Request::new(PostToConnectionRequest {
            connection_id: id.to_owned(),
            payload: Some(Payload::Text(text.to_owned())),
            ..Default::default()
        });
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        match self.posthorn.clone().post_to_connection(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => {
                // It is over for good. `$disconnect` is called as well, but this may come first.
                self.members().remove(id);
                Ok(false)
            }
            Err(status) => Err(status),
        }
    }

    fn members(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(status: u32, body: Option<Value>) -> HandleEventResponse {
    let payload = body.map(|body| Reply::Text(body.to_string()));
    HandleEventResponse { status, headers: Vec::new(), payload }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(api)) = (arguments.next(), arguments.next()) else {
        return Err("backend LISTEN API".into());
    };
    // Who calls is said by a bearer token, where the API asks.
    let authorization = match std::env::var("POSTHORN_TOKEN") {
        Ok(token) => Some(format!("Bearer {token}").parse()?),
        Err(_) => None,
    };
    let posthorn = ConnectionServiceClient::new(Endpoint::from_shared(api)?.connect_lazy());
    let room = Room { posthorn, authorization, members: Mutex::default() };
    let listener = TcpListener::bind(&listen).await?;
    println!("listening");
    Server::builder()
        .add_service(IntegrationServiceServer::from_arc(Arc::new(room)))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}
