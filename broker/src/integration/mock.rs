//! An integration that answers by itself.

use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::message::Message;

use crate::config::api::MockResponse;
use crate::integration::Answer;

pub(super) struct Mock {
    response: MockResponse,
}

impl Mock {
    pub(super) fn new(response: MockResponse) -> Mock {
        Mock { response }
    }

    pub(super) fn answer(&self, info: &ConnectionInfo, message: Option<&Message>) -> Answer {
        let (status, body) = match &self.response {
            MockResponse::Static { status, body } => {
                (*status, body.as_ref().map(|body| Message::text(fill_in(body, info))))
            }
            MockResponse::Echo => (200, message.cloned()),
        };
        Answer::new(status, Vec::new(), body)
    }
}

fn fill_in(body: &str, info: &ConnectionInfo) -> String {
    body.replace("$context.connectionId", &info.connection.to_string())
}
