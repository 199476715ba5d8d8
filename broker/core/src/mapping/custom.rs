//! Custom integrations: what a backend is sent instead of the message, and a client instead of the
//! backend's answer.
//!
//! Where API Gateway's documentation leaves a choice:
//!
//! * An integration without any response says nothing to clients; one with some, of which none fits,
//!   has failed.
//! * An answer whose response has no template for it passes as it is.
//! * A binary body is base64 to a template. What a template makes is text; content handling comes
//!   behind it.

use std::sync::Arc;

use crate::event::fields::Fields;
use crate::mapping::content::{ContentHandling, NotBase64};
use crate::mapping::facts::{Facts, text_of};
use crate::mapping::parameters::{MapError, Mapped, RequestParameters, ResponseParameters};
use crate::mapping::responses::{Answer, ResponseTable};
use crate::mapping::templates::{Passthrough, Selected, TemplateTable};
use crate::message::Message;
use crate::route::expression::RequestBody;
use crate::route::json::{self, Key};
use crate::template::{Dialect, Limits, RenderError, Source, Template};

#[derive(Debug)]
pub struct CustomMapping {
    pub request: RequestMapping,
    /// None if there is no response at all.
    pub responses: Option<ResponseTable<ResponseMapping>>,
}

#[derive(Debug)]
pub struct RequestMapping {
    pub templates: TemplateTable<Template>,
    pub passthrough: Passthrough,
    pub parameters: Arc<RequestParameters>,
    pub content_handling: Option<ContentHandling>,
}

#[derive(Debug)]
pub struct ResponseMapping {
    pub templates: TemplateTable<Template>,
    pub parameters: ResponseParameters,
    pub content_handling: Option<ContentHandling>,
}

/// What a backend is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub body: Message,
    pub mapped: Mapped,
}

/// What a client is to be told.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub headers: Vec<(String, String)>,
    pub body: Message,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CustomError {
    /// 415, in terms of HTTP.
    #[error("there is no template for this message, and it may not pass without one")]
    NoTemplate,
    #[error("no response of the integration fits its answer")]
    NoResponse,
    #[error("a template failed: {0}")]
    Render(#[from] RenderError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Content(#[from] NotBase64),
}

impl CustomMapping {
    /// None if nothing is to be said. `answer` is the backend's, `headers` are its headers.
    pub fn reply(
        &self,
        facts: &Facts<'_>,
        status: u16,
        headers: &Fields<'_>,
        body: &Message,
    ) -> Result<Option<Reply>, CustomError> {
        let Some(responses) = &self.responses else { return Ok(None) };
        let text = text_of(body);
        let answer = Answer { status, headers, body: &text, request_body: &facts.body };
        let response = responses.select(&answer).ok_or(CustomError::NoResponse)?;
        let context = facts.context_with_status(status);
        let source = facts.source_of_answer(&text, &context);
        let headers = response.parameters.map(&answer, &context, source.stage_variables)?;
        let made = match response.templates.find(&answer) {
            Some(template) => Some(render(template, &source)?),
            None => None,
        };
        let body = convert(response.content_handling, made.unwrap_or_else(|| body.clone()))?;
        Ok(Some(Reply { headers, body }))
    }
}

impl RequestMapping {
    /// `message` is what the client sent, if it sent one.
    pub fn outgoing(
        &self,
        facts: &Facts<'_>,
        message: Option<&Message>,
    ) -> Result<Outgoing, CustomError> {
        let source = facts.source();
        let body = match self.templates.select(self.passthrough, &RequestBody(source.body)) {
            Selected::Template(template) => render(template, &source)?,
            Selected::AsItIs => message.cloned().unwrap_or_else(|| Message::text("")),
            Selected::Refused => return Err(CustomError::NoTemplate),
        };
        let body = convert(self.content_handling, body)?;
        Ok(Outgoing { body, mapped: self.parameters.map(&source)? })
    }
}

/// What a mock answers: the request that was made for it says so by itself, in its `statusCode`.
pub fn mock_status(request: &Message) -> Option<u16> {
    let text = str::from_utf8(&request.payload).ok()?;
    let found = json::find(text, &[Key::Name("statusCode".into())]).ok()??;
    found.raw().parse().ok().filter(|status| (100..600).contains(status))
}

fn render(template: &Template, source: &Source<'_>) -> Result<Message, RenderError> {
    template.render(source, Dialect::ApiGateway, Limits::default()).map(Message::text)
}

fn convert(handling: Option<ContentHandling>, body: Message) -> Result<Message, NotBase64> {
    match handling {
        Some(handling) => handling.convert(body),
        None => Ok(body),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::event::connection_info::ConnectionInfo;
    use crate::event::context::Request;
    use crate::event::handshake::{Forwarded, Handshake};
    use crate::event::ids::{MessageId, RequestId};
    use crate::event::proxy::{ConnectEvent, Event, MessageEvent};
    use crate::ids::ConnectionId;
    use crate::route::expression::{Expression, Purpose};

    const STATUS: &str = "$integration.response.statuscode";

    #[test]
    fn a_message_goes_out_as_its_template_makes_it() {
        let made = outgoing(
            &request(&[(
                "$default",
                "<$input.path('$.a') $context.routeKey $stageVariables.tier>",
            )]),
            &Message::text(r#"{"a":"x"}"#),
        );
        assert_eq!(made.unwrap().body, Message::text("<x join gold>"));
        let as_it_is = outgoing(&request(&[]), &Message::binary(vec![1, 2]));
        assert_eq!(as_it_is.unwrap().body, Message::binary(vec![1, 2]));
        let base64 = outgoing(&request(&[("$default", "$input.body")]), &Message::binary(vec![0]));
        assert_eq!(base64.unwrap().body, Message::text("AA=="));
    }

    #[test]
    fn what_has_no_template_or_fails_to_render_goes_nowhere() {
        let never = RequestMapping { passthrough: Passthrough::Never, ..request(&[]) };
        assert_eq!(outgoing(&never, &Message::text("{}")), Err(CustomError::NoTemplate));
        let endless = request(&[("$default", "#foreach($i in [1..100000])$i#end")]);
        let error = outgoing(&endless, &Message::text("{}"));
        assert!(matches!(error, Err(CustomError::Render(_))), "{error:?}");
        let binary = Some(ContentHandling::ConvertToBinary);
        let converting = RequestMapping { content_handling: binary, ..request(&[]) };
        let error = outgoing(&converting, &Message::text("{}"));
        assert_eq!(error, Err(CustomError::Content(NotBase64)));
        let bytes = outgoing(&converting, &Message::text("AAE=")).unwrap();
        assert_eq!(bytes.body, Message::binary(vec![0, 1]));
    }

    #[test]
    fn a_handshake_shows_its_headers_and_query_to_templates_and_parameters() {
        let template = "$input.params('x-key') $input.params().querystring.q $input.body";
        let parameters = [
            ("integration.request.header.Key", "route.request.header.X-Key"),
            ("integration.request.querystring.q", "route.request.querystring.q"),
        ];
        let parameters = Arc::new(RequestParameters::parse(parameters).unwrap());
        let mapping = RequestMapping { parameters, ..request(&[("$default", template)]) };
        let (info, variables) = (info(), variables());
        let handshake = Handshake {
            headers: &[("X-Key", "1")],
            query: "q=2",
            forwarded: Forwarded { addresses: "", port: "", protocol: "", trace_id: "" },
        };
        let event = Event::Connect(ConnectEvent {
            info: &info,
            request: REQUEST,
            handshake,
            authorizer_latency_ms: None,
            stage_variables: &variables,
            origin: None,
        });
        let Outgoing { body, mapped } = mapping.outgoing(&Facts::of(&event), None).unwrap();
        assert_eq!(body, Message::text("1 2 {}"));
        assert_eq!(mapped.headers, [("Key".to_owned(), "1".to_owned())]);
        assert_eq!(mapped.query, [("q".to_owned(), "2".to_owned())]);
        // The same on a message finds none.
        let made = outgoing(&mapping, &Message::text("{}")).unwrap();
        assert_eq!(made.mapped, Mapped::default());
    }

    #[test]
    fn an_answer_is_told_as_its_response_says() {
        let template = "$context.status $context.routeKey: $input.path('$.error')";
        let pattern = response(&[("$default", template)]);
        let mapping = custom(vec![("/4../", pattern), ("$default", response(&[]))]);
        let said = reply(&mapping, 404, &Message::text(r#"{"error":"gone"}"#));
        assert_eq!(said.unwrap().unwrap().body, Message::text("404 join: gone"));
        let said = reply(&mapping, 200, &Message::binary(vec![1]));
        assert_eq!(said.unwrap().unwrap().body, Message::binary(vec![1]));
    }

    #[test]
    fn bytes_may_be_told_as_base64() {
        let content_handling = Some(ContentHandling::ConvertToText);
        let response = ResponseMapping { content_handling, ..response(&[]) };
        let said = reply(&custom(vec![("$default", response)]), 200, &Message::binary(vec![0]));
        assert_eq!(said.unwrap().unwrap().body, Message::text("AA=="));
    }

    #[test]
    fn an_answer_that_fits_no_response_is_a_failure_unless_there_is_none_at_all() {
        let mapping = custom(vec![("200", response(&[]))]);
        assert_eq!(reply(&mapping, 201, &Message::text("")), Err(CustomError::NoResponse));
        let silent = CustomMapping { request: request(&[]), responses: None };
        assert_eq!(reply(&silent, 201, &Message::text("x")), Ok(None));
    }

    #[test]
    fn a_mock_answers_what_its_request_says() {
        for (text, status) in [
            (r#"{"statusCode":200}"#, Some(200)),
            (" { \"statusCode\" : 404 , \"x\": [] } \n", Some(404)),
            (r#"{"statusCode":99}"#, None),
            (r#"{"statusCode":"200"}"#, None),
            (r#"{"statusCode":2e2}"#, None),
            (r#"{"status":200}"#, None),
            ("200", None),
            ("", None),
        ] {
            assert_eq!(mock_status(&Message::text(text)), status, "{text}");
        }
    }

    const REQUEST: Request = Request { id: RequestId::from_random([0; 11]), at_ms: 0 };

    fn request(templates: &[(&str, &str)]) -> RequestMapping {
        RequestMapping {
            templates: table(templates),
            passthrough: Passthrough::WhenNoMatch,
            parameters: Arc::default(),
            content_handling: None,
        }
    }

    fn response(templates: &[(&str, &str)]) -> ResponseMapping {
        let (parameters, content_handling) = (ResponseParameters::default(), None);
        ResponseMapping { templates: table(templates), parameters, content_handling }
    }

    fn custom(responses: Vec<(&str, ResponseMapping)>) -> CustomMapping {
        let expression = Expression::parse(STATUS, Purpose::IntegrationResponse).unwrap();
        let responses =
            responses.into_iter().map(|(key, response)| (key.parse().unwrap(), response));
        let responses = Some(ResponseTable::new(expression, responses));
        CustomMapping { request: request(&[]), responses }
    }

    fn table(templates: &[(&str, &str)]) -> TemplateTable<Template> {
        let templates = templates.iter();
        let parse = |(key, text): &(&str, &str)| ((*key).into(), Template::parse(text).unwrap());
        TemplateTable::new(None, templates.map(parse).collect())
    }

    fn outgoing(mapping: &RequestMapping, message: &Message) -> Result<Outgoing, CustomError> {
        with_facts(message, |facts| mapping.outgoing(facts, Some(message)))
    }

    fn reply(
        mapping: &CustomMapping,
        status: u16,
        body: &Message,
    ) -> Result<Option<Reply>, CustomError> {
        let message = Message::text("{}");
        with_facts(&message, |facts| mapping.reply(facts, status, &Fields::default(), body))
    }

    fn with_facts<T>(message: &Message, then: impl FnOnce(&Facts<'_>) -> T) -> T {
        let (info, variables) = (info(), variables());
        let event = Event::Message(MessageEvent {
            info: &info,
            request: REQUEST,
            route_key: "join",
            message_id: MessageId::from_random([0; 7], info.connection),
            message,
            stage_variables: &variables,
            origin: None,
        });
        then(&Facts::of(&event))
    }

    fn variables() -> BTreeMap<String, String> {
        BTreeMap::from([("tier".to_owned(), "gold".to_owned())])
    }

    fn info() -> ConnectionInfo {
        ConnectionInfo {
            connection: ConnectionId::from_random([0; 16]),
            api_id: "api".into(),
            stage: "dev".into(),
            domain_name: "localhost".into(),
            host: "localhost".into(),
            source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            user_agent: None,
            connected_at_ms: 0,
            api_key: None,
            authorized: None,
            signer: None,
        }
    }
}
