//! `docs/configuration.md`, and the configuration that a node says it would have.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use posthorn::config::Config;
use posthorn::config::reference::{Default, Group, Key, Secret, Shape, sections};
use posthorn_chaos::process::binary;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{MADE, cell, check_page};

/// A configuration with every group of keys that there is.
const RICH: &str = r##"
node: { id: 1, data_dir: data }
cluster: { name: test, initial_voters: [{ id: 1, address: 'node-{id}:7946' }] }
fabric: { advertise: 'node-{id}:7946', ca_file: ca, cert_file: 'n-{id}.pem', key_file: 'n-{id}.key' }
edge:
  listen: 127.0.0.1:0
  trusted_proxies: [10.0.0.0/8, '::1']
  tls:
    cert_file: a
    key_file: b
    more_certificates: [{ cert_file: c, key_file: d }]
    clients: { ca_file: e }
api: { listen: '127.0.0.1:0', non_utf8_payload: binary }
admin: { listen: '127.0.0.1:0' }
drain: { close_code: 4000, close_reason: "a \"reason\" ü" }
integrations: { denied_addresses: [own_listeners, '2001:db8::/32'] }
log: { format: json }
aws: { region: eu-central-1, access_key_id: AKID, secret_access_key_file: secret }
account: { throttling_rate_limit: 0.5, throttling_burst_limit: 7 }
principals:
  backend:
    permissions: ['chat/*/post', '*/*/admin']
    token_sha256:
      - a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1
      - b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2
    access_keys: [{ access_key_id: AKIDCHAT, secret_access_key_file: secret }]
    certificate_names: [chat.internal]
    json_web_tokens:
      - claims: { sub: backend }
        jwt_configuration:
          issuer: 'https://id.example'
          audience: [posthorn]
          jwks_uri: 'https://user:password@id.example/keys'
    policy: { Version: '2012-10-17', Statement: [] }
api_keys:
  partner: { value_sha256: c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3 }
usage_plans:
  basic:
    api_keys: [partner]
    api_stages:
      - { api_id: chat, stage: prod, throttle: { $connect: { rate_limit: 1, burst_limit: 2 } } }
    throttle: { rate_limit: 10, burst_limit: 20 }
    quota: { limit: 10000, period: MONTH }
domain_names:
  ws.example.com: { api_mappings: [{ api_mapping_key: chat, api_id: chat, stage: prod }] }
apis:
  chat:
    route_selection_expression: $request.body.action
    routes:
      $connect:
        target: integrations/who
        authorization_type: CUSTOM
        authorizer_id: asked
        request_parameters: { route.request.querystring.room: { required: true } }
      'say "hi" \ ü': { target: integrations/server, route_responses: { $default: {} } }
      yes: { target: integrations/server, request_models: { $default: Said } }
    integrations:
      who: { integration_type: MOCK, mock_response: { body: '$context.connectionId' } }
      server:
        integration_type: HTTP
        integration_uri: 'http://user:password@server/${stageVariables.path}'
        timeout_in_millis: none
        request_parameters:
          integration.request.header.x-api-key: "'hunter2'"
          integration.request.header.id: context.connectionId
        request_templates: { $default: '{"a": $input.json("$")}' }
        integration_responses: { $default: { response_templates: { $default: ok } } }
    authorizers:
      asked: { authorizer_type: REQUEST, authorizer_uri: 'http://auth/', identity_source: [] }
      token:
        authorizer_type: JWT
        identity_source: [route.request.header.Authorization]
        jwt_configuration: { issuer: i, audience: [a], jwks_uri: 'https://id.example/keys' }
    models: { Said: { schema: { type: object } } }
    stages:
      prod:
        stage_variables: { path: x }
        allowed_origins: ['https://example.com']
        default_route_settings: { throttling_rate_limit: 1, throttling_burst_limit: 2 }
        route_settings: { $connect: { throttling_rate_limit: 3, throttling_burst_limit: 4 } }
        access_log_settings: { destination: stdout, format: $context.requestId }
"##;

#[test]
fn the_page_of_the_configuration_is_current() {
    let group = sections();
    let mut silent = Vec::new();
    find_silent(&group, "", &mut silent);
    assert!(silent.is_empty(), "nothing is said of {silent:#?}");
    check_page("configuration.md", &page(&group));
}

#[test]
fn the_parser_knows_the_keys_of_the_page_and_no_others() {
    let folder = folder();
    let path = write(&folder, RICH);
    Config::load(&path).unwrap();
    let written: Value = serde_saphyr::from_str(RICH).unwrap();
    let mut places = Vec::new();
    find_groups(&Shape::Group(sections()), &written, "", &mut places);
    let kinds: BTreeSet<_> = places.iter().map(|(_, group)| group.kind).collect();
    assert_eq!(kinds, kinds_of(&Shape::Group(sections())), "RICH has every group");
    for (pointer, group) in places {
        let mut other = written.clone();
        other.pointer_mut(&pointer).unwrap()["bogus"] = json!(1);
        let path = write(&folder, &other.to_string());
        let error = Config::load(&path).map(|_| ()).unwrap_err().to_string();
        let (_, expected) = error.split_once("unknown field `bogus`").expect(&error);
        let known: BTreeSet<_> = match expected.contains('`') {
            true => expected.split('`').skip(1).step_by(2).collect(),
            // Above some number, they are not quoted.
            false => {
                let words = expected.trim_start_matches(", expected one of ").split(", ");
                words.map(str::trim).filter(|word| !word.is_empty()).collect()
            }
        };
        let on_page: BTreeSet<_> = group.keys.iter().map(|key| key.name).collect();
        assert_eq!(on_page, known, "{pointer}: {error}");
    }
}

#[test]
fn what_is_printed_is_accepted_says_the_same_and_no_secrets() {
    let folder = folder();
    let path = write(&folder, RICH);
    let printed = print(&path, &[]);
    for secret in ["a1a1", "b2b2", "c3c3", "password", "hunter2", "swordfish"] {
        assert!(!printed.contains(secret), "{secret}: {printed}");
    }
    for line in [
        "  advertise: \"node-1:7946\"",
        "  idle_timeout_s: 600  # default",
        "  close_reason: \"a \\\"reason\\\" ü\"",
        "        integration_uri: \"http://server/${stageVariables.path}\"",
        "          integration.request.header.x-api-key: \"'masked'\"",
        "          integration.request.header.id: \"context.connectionId\"",
        "# Between nodes.",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line}: {printed}");
    }

    let again = write(&folder, &printed);
    let checked = std::process::Command::new(binary()).arg("check").arg(&again).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert_eq!(print(&again, &[]), printed);

    let as_json: Value = serde_json::from_str(&print(&path, &["--json"])).unwrap();
    let as_yaml: Value = serde_saphyr::from_str(&printed).unwrap();
    assert_eq!(as_json, as_yaml);
    assert_eq!(as_json["edge"]["trusted_proxies"], json!(["10.0.0.0/8", "::1/128"]));
    assert_eq!(as_json["apis"]["chat"]["integrations"]["server"]["timeout_in_millis"], "none");
}

#[test]
fn the_environment_is_printed_and_what_is_wrong_is_named() {
    let folder = folder();
    let path = write(&folder, RICH);
    let mut command = std::process::Command::new(binary());
    command
        .args(["config", "print", "--json"])
        .arg(&path)
        .env("POSTHORN_EDGE__IDLE_TIMEOUT_S", "7");
    let printed: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert_eq!(printed["edge"]["idle_timeout_s"], 7);
    command.env("POSTHORN_EDGE__IDLE_TIMEOUT_S", "0");
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("edge.idle_timeout_s"), "{said}");
}

fn folder() -> TempDir {
    let folder = TempDir::with_prefix("posthorn-").unwrap();
    std::fs::write(folder.path().join("secret"), "swordfish").unwrap();
    // Listeners look at their certificates.
    for (certificate, key) in [("a", "b"), ("c", "d"), ("e", "f")] {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join(certificate), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join(key), made.signing_key.serialize_pem()).unwrap();
    }
    folder
}

fn write(folder: &TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("node.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

fn print(path: &Path, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(binary());
    let output = command.args(["config", "print"]).args(arguments).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn page(group: &Group) -> String {
    let mut page = format!(
        "{MADE}# Configuration\n\n\
         Every key that a configuration may have. It is YAML; keys that are not here are refused. \
         `posthorn check FILE` says what is wrong with a configuration, and `posthorn config print FILE` shows \
         one with all defaults. Names end in their unit: `_ms` and `_s` are whole numbers of milliseconds and \
         seconds, `_bytes_max` of bytes. Any key can be set by the environment: `POSTHORN_EDGE__LISTEN` is \
         `edge.listen`. Files are looked for beside the configuration. `*` in a path stands for a name \
         that you choose, `[]` for each item of a list. What is marked *secret* is masked where a \
         configuration is printed; secrets themselves are never in it, but in files and in the environment.\n\
         \n## Sections\n\n"
    );
    let mut sections = Vec::new();
    for Key { name, shape, .. } in &group.keys {
        find_sections(shape, name, &mut sections);
    }
    page += &table(group, &sections);
    for (group, path) in &sections {
        let _ = write!(page, "\n## `{path}`\n\n{}\n", group.doc);
        if !group.keys.is_empty() {
            let _ = write!(page, "\n{}", table(group, &sections));
        }
    }
    page
}

/// Each kind of group, and where it comes first.
fn find_sections<'a>(shape: &'a Shape, path: &str, found: &mut Vec<(&'a Group, String)>) {
    match shape {
        Shape::Group(group) if found.iter().all(|(known, _)| known.kind != group.kind) => {
            found.push((group, path.to_owned()));
            for Key { name, shape, .. } in &group.keys {
                find_sections(shape, &format!("{path}.{name}"), found);
            }
        }
        Shape::List(inner) => find_sections(inner, &format!("{path}[]"), found),
        Shape::Map(inner) => find_sections(inner, &format!("{path}.*"), found),
        Shape::Group(_) | Shape::Words(_) | Shape::OneOf(_) => (),
    }
}

fn table(group: &Group, sections: &[(&Group, String)]) -> String {
    let mut table = "| key | value | default | means |\n|---|---|---|---|\n".to_owned();
    for Key { name, doc, shape, default, secret } in &group.keys {
        let default = match default {
            Default::Required => "**required**".to_owned(),
            Default::Value(Value::String(text)) => format!("`{text}`"),
            Default::Value(Value::Object(_)) => String::new(),
            Default::Value(Value::Array(items)) if items.is_empty() => String::new(),
            Default::Value(value) => format!("`{value}`"),
            Default::Absent(text) => {
                text.as_ref().map_or(String::new(), |text| format!("`{text}`"))
            }
        };
        let mut means = doc.clone();
        if let Shape::OneOf(words) = innermost(shape) {
            for (word, doc) in words {
                let _ = write!(means, "<br>`{word}`: {doc}");
            }
        }
        match secret {
            Some(Secret::Hash) => means += " *Secret.*",
            Some(Secret::Address) => means += " *Secret*: a user's name and password in it.",
            Some(Secret::Literals) => means += " *Secret*: what is in quotation marks.",
            None => (),
        }
        let value = value_of(shape, sections);
        let _ = writeln!(table, "| `{name}` | {value} | {} | {} |", cell(&default), cell(&means));
    }
    table
}

fn value_of(shape: &Shape, sections: &[(&Group, String)]) -> String {
    match shape {
        Shape::Words(words) => (*words).to_owned(),
        Shape::OneOf(words) => {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            words.join(", ")
        }
        Shape::Group(group) => {
            let (_, place) = sections.iter().find(|(known, _)| known.kind == group.kind).unwrap();
            let anchor = place.replace(['.', '*', '[', ']'], "");
            format!("[`{place}`](#{anchor})")
        }
        Shape::List(inner) => format!("list: {}", value_of(inner, sections)),
        Shape::Map(inner) => format!("by name: {}", value_of(inner, sections)),
    }
}

fn innermost(shape: &Shape) -> &Shape {
    match shape {
        Shape::List(inner) | Shape::Map(inner) => innermost(inner),
        Shape::Words(_) | Shape::OneOf(_) | Shape::Group(_) => shape,
    }
}

/// Keys and words of which nothing is said.
fn find_silent(group: &Group, path: &str, silent: &mut Vec<String>) {
    for Key { name, doc, shape, .. } in &group.keys {
        let path = format!("{path}.{name}");
        if doc.is_empty() {
            silent.push(path.clone());
        }
        match innermost(shape) {
            Shape::Group(group) => {
                if group.doc.is_empty() {
                    silent.push(format!("{path} as a whole"));
                }
                find_silent(group, &path, silent);
            }
            Shape::OneOf(words) => {
                let without = words.iter().filter(|(_, doc)| doc.is_empty());
                silent.extend(without.map(|(word, _)| format!("{path}: {word}")));
            }
            Shape::Words(_) | Shape::List(_) | Shape::Map(_) => (),
        }
    }
}

/// Where in a configuration there are groups, as JSON pointers.
fn find_groups(shape: &Shape, value: &Value, pointer: &str, found: &mut Vec<(String, Group)>) {
    let step = |name: &str| format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
    match (shape, value) {
        (Shape::Group(group), Value::Object(members)) => {
            found.push((pointer.to_owned(), group.clone()));
            for Key { name, shape, .. } in &group.keys {
                if let Some(value) = members.get(*name) {
                    find_groups(shape, value, &step(name), found);
                }
            }
        }
        (Shape::List(inner), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                find_groups(inner, item, &step(&index.to_string()), found);
            }
        }
        (Shape::Map(inner), Value::Object(members)) => {
            for (name, member) in members {
                find_groups(inner, member, &step(name), found);
            }
        }
        _ => (),
    }
}

fn kinds_of(shape: &Shape) -> BTreeSet<&'static str> {
    match innermost(shape) {
        Shape::Group(group) => {
            let inner = group.keys.iter().flat_map(|key| kinds_of(&key.shape));
            inner.chain([group.kind]).collect()
        }
        _ => BTreeSet::new(),
    }
}
