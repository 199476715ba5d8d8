//! What templates come to. Expectations that follow API Gateway where it differs from Velocity's
//! documentation are of recordings.

mod bounds;
mod language;
mod methods;
mod variables;

use std::collections::BTreeMap;

use crate::event::fields::Fields;
use crate::template::{Dialect, Limits, RenderFault, Source, Template};

const BODY: &str = r#"{"action":"join","n":7,"f":1.50,"t":true,"none":null,
    "data":{"room":"r1","tags":["a","b"]},"list":[{"c":5},{"c":6}]}"#;

fn render(template: &str) -> String {
    render_as(template, Dialect::ApiGateway)
}

fn render_as(template: &str, dialect: Dialect) -> String {
    try_render(template, dialect, Limits::default()).unwrap()
}

fn fault(template: &str) -> RenderFault {
    try_render(template, Dialect::ApiGateway, Limits::default()).unwrap_err()
}

fn try_render(template: &str, dialect: Dialect, limits: Limits) -> Result<String, RenderFault> {
    try_render_body(template, BODY, dialect, limits)
}

fn try_render_body(
    template: &str,
    body: &str,
    dialect: Dialect,
    limits: Limits,
) -> Result<String, RenderFault> {
    let headers = Fields::of_headers([("Host", "h"), ("x-key", "1"), ("X-Key", "2")]);
    let query = Fields::of_query("q=a%20b&q=c&Host=query");
    let context = r#"{"connectionId":"abc=","connectedAt":1701245041796,
        "identity":{"sourceIp":"::1"},"authorizer":{"principalId":"me"}}"#;
    let stage_variables = BTreeMap::from([("tier", "gold"), ("url", "x.test/a")].map(owned));
    let source = Source {
        body,
        headers: &headers,
        query: &query,
        context,
        stage_variables: &stage_variables,
    };
    let template = Template::parse(template).unwrap();
    template.render(&source, dialect, limits).map_err(|error| error.why)
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn check(cases: &[(&str, &str)]) {
    for (template, text) in cases {
        assert_eq!(render(template), *text, "{template}");
    }
}
