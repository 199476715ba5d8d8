//! The parameters that a route declares: those that are required, a handshake must have.

use crate::event::fields::Fields;
use crate::mapping::parameters::ParameterFault;
use crate::mapping::value::RequestValue;

/// Of `$connect` alone: messages have neither headers nor queries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequiredParameters(Vec<RequestValue>);

impl RequiredParameters {
    /// `text` is `route.request.querystring.NAME` or `route.request.header.NAME`, or the same with
    /// `multivalue` before its kind.
    pub fn declare(&mut self, text: &str, is_required: bool) -> Result<(), ParameterFault> {
        match RequestValue::parse(text) {
            Ok(value @ (RequestValue::Header(..) | RequestValue::Query(..))) => {
                if is_required {
                    self.0.push(value);
                }
                Ok(())
            }
            Err(fault @ ParameterFault::Name { .. }) => Err(fault),
            Ok(RequestValue::Common(_) | RequestValue::Body(_)) | Err(_) => {
                Err(ParameterFault::UnknownDeclaration)
            }
        }
    }

    /// The names of those that are not there, or blank. None where nothing is missing.
    pub fn missing(&self, headers: &Fields<'_>, query: &Fields<'_>) -> Option<String> {
        let names = self.0.iter().filter_map(|value| match value {
            RequestValue::Header(name, _) => {
                is_blank(headers.last_ignoring_case(name)).then_some(&**name)
            }
            RequestValue::Query(name, _) => is_blank(query.last(name)).then_some(&**name),
            RequestValue::Common(_) | RequestValue::Body(_) => None,
        });
        let names: Vec<_> = names.collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

fn is_blank(value: Option<&str>) -> bool {
    value.is_none_or(|value| value.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_must_be_there_and_say_something() {
        let mut required = RequiredParameters::default();
        for (text, is_required) in [
            ("route.request.querystring.room", true),
            ("route.request.multivaluequerystring.tag", true),
            ("route.request.header.X-Key", true),
            ("route.request.header.X-Else", false),
        ] {
            required.declare(text, is_required).expect("it can be declared");
        }
        for (header, query, missing) in [
            (("x-key", "1"), "room=1&tag=a&tag=b", None),
            (("X-Key", " "), "room=1&tag=a", Some("X-Key")),
            (("X-Other", "1"), "Room=1&tag", Some("room, tag, X-Key")),
        ] {
            let (headers, query) = (Fields::of_headers([header]), Fields::of_query(query));
            assert_eq!(required.missing(&headers, &query).as_deref(), missing);
        }
    }

    #[test]
    fn only_what_a_handshake_has_can_be_declared() {
        let mut required = RequiredParameters::default();
        for text in ["route.request.body.a", "context.stage", "'x'", "x", "route.request.path.x"] {
            let declared = required.declare(text, true);
            assert_eq!(declared, Err(ParameterFault::UnknownDeclaration), "{text}");
        }
        let nameless = required.declare("route.request.header.", true);
        assert_eq!(nameless, Err(ParameterFault::Name { name: "".into() }));
    }
}
