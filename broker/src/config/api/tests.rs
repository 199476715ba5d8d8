//! What is wrong with an API definition is said by line, key and rule.

use tempfile::TempDir;

use crate::config::Config;

/// In front of the definitions.
const NODE: &str = "\
node: { id: 0, data_dir: data }
cluster: { name: test, initial_voters: [{ id: 0, address: '127.0.0.1:1' }] }
fabric: { advertise: '127.0.0.1:1', ca_file: a, cert_file: b, key_file: c }
edge: { listen: '127.0.0.1:0' }
api: { listen: '127.0.0.1:0' }
apis:
  chat:
    route_selection_expression: $request.body.action
";
const SERVER: &str = "integration_type: HTTP, integration_uri: 'http://h/x'";
const FUNCTION: &str = "integration_type: AWS, integration_uri: chat";
const MOCK: &str =
    "integration_type: MOCK, request_templates: { $default: '{\"statusCode\":200}' }";

/// Integrations, each with a fault; where it is, and what is said of it.
const INTEGRATIONS: &[(&str, &str, &str)] = &[
    ("@SERVER, request_templates: { $default: '#if(' }", ".request_templates.$default", "line 1"),
    ("@SERVER, template_selection_expression: a", ".template_selection_expression", "no templates"),
    (
        "@SERVER, request_templates: { a: x }, template_selection_expression: '$a'",
        ".template_selection_expression",
        "unknown variable",
    ),
    (
        "@SERVER, integration_responses: { '/(/': {} }",
        ".integration_responses./(/",
        "not a regular expression",
    ),
    ("@SERVER, integration_responses: { '$x': {} }", ".integration_responses.$x", "only $default"),
    (
        "@SERVER, integration_responses: { a: { response_templates: { $default: '#set(' } } }",
        ".integration_responses.a.response_templates.$default",
        "line 1",
    ),
    (
        "@SERVER, integration_responses: { a: { response_parameters: { x: y } } }",
        ".integration_responses.a.response_parameters.x",
        "route.response.header.NAME",
    ),
    (
        "@SERVER, integration_responses: { a: { x: y } }",
        ".integration_responses.a.x",
        "unknown field",
    ),
    ("@SERVER, passthrough_behavior: SOMETIMES", ".passthrough_behavior", "unknown variant"),
    ("@SERVER, content_handling_strategy: X", ".content_handling_strategy", "unknown variant"),
    ("@SERVER, timeout_in_millis: 49", ".timeout_in_millis", "at least 50, or none"),
    ("@SERVER, timeout_in_millis: never", ".timeout_in_millis", "the word none"),
    ("@SERVER, mock_response: {}", ".mock_response", "no key of an integration of type Http"),
    (
        "@SERVER, request_parameters: { integration.request.header.Host: \"'x'\" }",
        ".request_parameters.integration.request.header.Host",
        "cannot be set",
    ),
    (
        "@SERVER, request_parameters: { integration.request.header.A: \"'a\\r\\nB: c'\" }",
        ".request_parameters.integration.request.header.A",
        "no control characters",
    ),
    ("@SERVER, payload_format_version: 2.0", ".payload_format_version", "only value is 1.0"),
    ("@SERVER, connection_type: VPC_LINK", ".connection_type", "no VPC links"),
    ("@SERVER, connection_id: abc", ".connection_id", "no VPC links"),
    ("@FUNCTION, credentials_arn: 'arn:aws:iam::1:role/a'", ".credentials_arn", "no role"),
    (
        "@SERVER, request_parameters: { integration.request.path.id: \"'x'\" }",
        ".integration_uri",
        "fills no `{id}`",
    ),
    (
        "integration_type: HTTP, integration_uri: 'http://h/{id}'",
        ".integration_uri",
        "`{id}` is filled by no",
    ),
    (
        "integration_type: HTTP, integration_uri: 'http://h/x?{id}'",
        ".integration_uri",
        "in the path",
    ),
    ("integration_type: HTTP, integration_uri: 'http://{h}/x'", ".integration_uri", ""),
    (
        "integration_type: HTTP, integration_uri: 'file:///etc/passwd'",
        ".integration_uri",
        "file:///etc/passwd",
    ),
    (
        "integration_type: HTTP, integration_uri: 'gopher://h/x'",
        ".integration_uri",
        "no http or https",
    ),
    ("integration_type: HTTP", ".integration_uri", "needs it"),
    (
        "integration_type: AWS, integration_uri: 'http://h'",
        ".integration_uri",
        "no Lambda function",
    ),
    (
        "@FUNCTION, request_parameters: { integration.request.header.Authorization: \"'x'\" }",
        ".request_parameters.integration.request.header.Authorization",
        "only these headers",
    ),
    (
        "@FUNCTION, request_parameters: { integration.request.querystring.a: \"'x'\" }",
        ".request_parameters.integration.request.querystring.a",
        "only these headers",
    ),
    (
        "integration_type: AWS_PROXY, integration_uri: chat, request_templates: { a: b }",
        ".request_templates",
        "no key of an integration of type AwsProxy",
    ),
    (
        "integration_type: GRPC, integration_uri: 'http://h', request_parameters: { a: b }",
        ".request_parameters",
        "no key of an integration of type Grpc",
    ),
    ("@MOCK, mock_response: { echo: true }", ".mock_response", "not both"),
    ("@MOCK, request_parameters: { a: b }", ".request_parameters", "type Mock"),
    (
        "integration_type: MOCK, integration_responses: { $default: {} }",
        ".request_templates",
        "statusCode",
    ),
    (
        "integration_type: MOCK, passthrough_behavior: NEVER",
        ".passthrough_behavior",
        "without templates",
    ),
];

#[test]
fn what_is_wrong_with_an_integration_is_named() {
    for (integration, key, rule) in INTEGRATIONS {
        let integration = integration.replace("@SERVER", SERVER);
        let integration = integration.replace("@FUNCTION", FUNCTION).replace("@MOCK", MOCK);
        let definition = format!(
            "    integrations:\n      x: {{ {integration} }}\n    stages: {{ dev: {{}} }}\n"
        );
        assert_fault(&definition, &format!("apis.chat.integrations.x{key}"), rule);
    }
}

#[test]
fn what_is_wrong_with_a_route_is_named() {
    for (route, key, rule) in [
        ("route_responses: { other: {} }", ".route_responses.other", "only key is $default"),
        ("route_responses: { $default: { x: y } }", ".route_responses.$default.x", "unknown field"),
        (
            "route_response_selection_expression: a",
            ".route_response_selection_expression",
            "only value is $default",
        ),
        ("route_responses: { $default: {} }", ".target", "no integration_responses"),
        ("request_models: { $default: Other }", ".request_models.$default", "no key of models"),
        ("request_models: { a: Join }", ".request_models.a", "only $default"),
        (
            "request_parameters: { route.request.header.a: {} }",
            ".request_parameters.route.request.header.a",
            "only the handshake of $connect",
        ),
        ("model_selection_expression: a", ".model_selection_expression", "no request_models"),
        (
            "request_models: { a: Join }, model_selection_expression: '${request.body.a'",
            ".model_selection_expression",
            "without `}`",
        ),
    ] {
        let definition = format!(
            "    routes: {{ join: {{ target: integrations/x, {route} }} }}\n    \
             integrations: {{ x: {{ {SERVER} }} }}\n    models: {{ Join: {{ schema: {{}} }} }}\n    \
             stages: {{ dev: {{}} }}\n"
        );
        assert_fault(&definition, &format!("apis.chat.routes.join{key}"), rule);
    }
    let connect = |more: &str| {
        format!(
            "    routes: {{ $connect: {{ target: integrations/x{more} }} }}\n    \
             integrations: {{ x: {{ {SERVER} }} }}\n    models: {{ Join: {{ schema: {{}} }} }}\n    \
             stages: {{ dev: {{}} }}\n"
        )
    };
    assert_fault(&connect(""), "apis.chat.routes.$connect.target", "no integration_responses");
    let answering = connect(", request_models: { $default: Join }")
        .replace("'http://h/x'", "'http://h/x', integration_responses: { $default: {} }");
    assert_fault(&answering, "apis.chat.routes.$connect.request_models.$default", "no message");
    for (name, value, below, rule) in [
        ("route.request.body.a", "{}", "", "route.request.querystring.NAME"),
        ("route.request.header.a b", "{}", "", "not a name"),
        ("route.request.header.a", "{ requird: true }", ".requird", "unknown field"),
    ] {
        let more = format!(", request_parameters: {{ '{name}': {value} }}");
        let declaring = connect(&more)
            .replace("'http://h/x'", "'http://h/x', integration_responses: { $default: {} }");
        let key = format!("apis.chat.routes.$connect.request_parameters.{name}{below}");
        assert_fault(&declaring, &key, rule);
    }
}

#[test]
fn what_is_wrong_with_a_route_selection_expression_is_named() {
    for (expression, rule) in [
        ("$request.body", "path is empty"),
        ("${request.body.action", "without `}`"),
        ("$request.header.x", "has no value here"),
        ("$context.routeKey", "unknown variable"),
        ("$request.body.a[?(@.b)]", "filter"),
        ("a\\b", "backslash"),
        ("", "empty"),
    ] {
        let definition = "    stages: { dev: {} }\n";
        let written = NODE.replace("$request.body.action", &format!("'{expression}'"));
        let error = load_as(&format!("{written}{definition}")).expect_err(expression);
        assert!(error.starts_with("node.yaml:8:33: "), "{error}");
        assert!(error.contains(": apis.chat.route_selection_expression: "), "{error}");
        assert!(error.contains(rule), "{rule}: {error}");
    }
}

#[test]
fn what_is_wrong_with_a_model_is_named() {
    for (name, model, key, rule) in [
        ("A", "schema: { type: objekt }", ".schema", "at /type"),
        ("A", "schema: { $ref: 'http://h/x' }", ".schema", "draft 4"),
        ("A", "schema: { properties: { a: { pattern: '(?=a)' } } }", ".schema", "pattern"),
        ("A", "schema: []", ".schema", "an object"),
        ("A", "schema: '{'", ".schema", "EOF"),
        ("A", "schema_file: missing.json", ".schema_file", "missing.json"),
        ("A", "schema_file: broken.json", ".schema_file", "broken.json"),
        ("A", "schema_file: list.yaml", ".schema_file", "an object"),
        ("A", "schema: {}, schema_file: list.yaml", "", "not both"),
        ("A", "description: x", "", "a schema or a schema_file"),
        ("A", "schema: {}, content_type: text/xml", ".content_type", "application/json"),
        ("A", "schema: {}, x: y", ".x", "unknown field"),
        ("A-B", "schema: {}", "", "A-Z, a-z and 0-9"),
    ] {
        let definition =
            format!("    models: {{ {name}: {{ {model} }} }}\n    stages: {{ dev: {{}} }}\n");
        assert_fault(&definition, &format!("apis.chat.models.{name}{key}"), rule);
    }
    let lenient = "    disable_schema_validation: true\n    models: { A: { schema: { type: objekt } } }\n    \
                   stages: { dev: {} }\n";
    load(lenient).unwrap();
}

#[test]
fn schemas_are_found_beside_the_file_that_names_them() {
    let definition = "    models:\n      A: { schema_file: good.json, content_type: application/json }\n      \
                      B: { schema_file: good.yaml, description: the same }\n      \
                      C: { schema: '{ \"type\": \"string\" }' }\n    stages: { dev: {} }\n";
    load(definition).unwrap();
}

fn assert_fault(definition: &str, key: &str, rule: &str) {
    let error = load(definition).expect_err(definition);
    let place = error.split_once(": ").map_or("", |(place, _)| place);
    assert!(error.contains(&format!(": {key}: ")), "{key}: {error}");
    assert!(error.contains(rule), "{rule}: {error}");
    assert!(place.starts_with("node.yaml"), "{error}");
}

fn load(definition: &str) -> Result<(), String> {
    load_as(&format!("{NODE}{definition}"))
}

fn load_as(text: &str) -> Result<(), String> {
    let folder = TempDir::new().expect("a folder can be made");
    for (name, text) in [
        ("node.yaml", text),
        ("broken.json", "{ \"type\": }"),
        ("good.json", "{\n\t\"type\": \"string\"\n}"),
        ("good.yaml", "type: string\n"),
        ("list.yaml", "- a\n"),
    ] {
        std::fs::write(folder.path().join(name), text).expect("a file can be written");
    }
    let loaded = Config::load_with(&folder.path().join("node.yaml"), &[]);
    let folder = format!("{}/", folder.path().display());
    loaded.map(|_| ()).map_err(|error| error.to_string().replace(&folder, ""))
}
