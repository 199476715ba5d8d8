//! `docs/api.md`: what the `.proto` files say, and the `@connections` API.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use posthorn_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, MethodDescriptorProto,
};

use crate::{MADE, cell, check_page};

const PACKAGE: &str = "posthorn.v1";
/// Where things stand in a file, as `descriptor.proto` numbers them.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const FIELDS: i32 = 2;

/// What is said of each thing of a file, by its path.
type Comments = BTreeMap<Vec<i32>, String>;

#[test]
fn the_page_of_the_api_is_current() {
    let page = page();
    // What callers may be told is on it.
    for (file, is_reason) in [
        ("broker/src/api/status.rs", is_reason as fn(&str) -> bool),
        ("broker/src/api/management/answer.rs", |text| text.ends_with("Exception")),
        ("broker/core/src/auth/sigv4/error.rs", |text| text.ends_with("Exception")),
    ] {
        let path = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let reasons: Vec<_> =
            text.split('"').skip(1).step_by(2).filter(|text| is_reason(text)).collect();
        assert!(reasons.len() > 3, "{file}: {reasons:?}");
        for reason in reasons {
            assert!(page.contains(&format!("`{reason}`")), "{reason} is not in docs/api.md");
        }
    }
    check_page("api.md", &page);
}

fn is_reason(text: &str) -> bool {
    text.len() > 3 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

fn page() -> String {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let files: Vec<_> = set.file.iter().filter(|file| file.package() == PACKAGE).collect();
    let mut page = format!(
        "{MADE}# API\n\n\
         Every node takes every call, at `api.listen`. The services are `{PACKAGE}`'s, in \
         [`proto/`](../proto/posthorn/v1); nodes offer reflection and `grpc.health.v1`. What any HTTP client \
         can call stands [at the end](#the-connections-api).\n"
    );
    for file in &files {
        page += &services(file);
    }
    page += "\n";
    page += include_str!("http.md");
    page += "\n## Messages\n";
    for file in &files {
        let comments = comments_of(file);
        for (index, message) in (0..).zip(&file.message_type) {
            page += &message_of(message, index, &comments);
        }
        for (index, one) in (0..).zip(&file.enum_type) {
            page += &enum_of(one, index, &comments);
        }
    }
    page
}

fn services(file: &FileDescriptorProto) -> String {
    let comments = comments_of(file);
    let mut text = String::new();
    for (index, service) in (0..).zip(&file.service) {
        let said = said_of(&comments, &[SERVICES, index]);
        let _ = write!(text, "\n## {}\n\n{said}\n", service.name());
        for (place, method) in (0..).zip(&service.method) {
            let said = said_of(&comments, &[SERVICES, index, FIELDS, place]);
            let _ = write!(text, "\n### {}\n\n{}\n\n{said}\n", method.name(), signature(method));
        }
    }
    text
}

fn signature(method: &MethodDescriptorProto) -> String {
    let end = |is_stream, name: &str| {
        let stream = if is_stream { "a stream of " } else { "" };
        format!("{stream}{}", link(name))
    };
    let taken = end(method.client_streaming(), method.input_type());
    format!("Takes {taken}, answers {}.", end(method.server_streaming(), method.output_type()))
}

fn message_of(message: &DescriptorProto, index: i32, comments: &Comments) -> String {
    let said = said_of_message(comments, &[MESSAGES, index]);
    let mut text = format!("\n### {}\n\n{said}", message.name());
    let is_map = |entry: &DescriptorProto| entry.options.as_ref().is_some_and(|it| it.map_entry());
    let maps: Vec<_> = message.nested_type.iter().filter(|entry| is_map(entry)).collect();
    assert_eq!(maps.len(), message.nested_type.len(), "{}", message.name());
    if message.field.is_empty() {
        text += "It has no fields.\n";
        return text;
    }
    text += "| field | type | means |\n|---|---|---|\n";
    for (place, field) in (0..).zip(&message.field) {
        let mut said = cell(&said_of(comments, &[MESSAGES, index, FIELDS, place]));
        if let Some(choice) = field.oneof_index
            && !field.proto3_optional()
        {
            let choice = &message.oneof_decl[usize::try_from(choice).unwrap()];
            said = format!("{said} One of `{}`.", choice.name());
        }
        let (name, kind) = (field.name(), kind_of(field, &maps));
        let _ = writeln!(text, "| `{name}` | {kind} | {} |", said.trim());
    }
    text
}

fn kind_of(field: &FieldDescriptorProto, maps: &[&DescriptorProto]) -> String {
    let name = field.type_name().rsplit('.').next().unwrap_or_default();
    let kind = match field.r#type() {
        Type::Message | Type::Enum => {
            if let Some(entry) = maps.iter().find(|entry| entry.name() == name) {
                let [key, value] = [&entry.field[0], &entry.field[1]].map(|end| kind_of(end, &[]));
                return format!("map of {key} to {value}");
            }
            link(field.type_name())
        }
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    match field.label() {
        Label::Repeated => format!("list of {kind}"),
        _ if field.proto3_optional() => format!("{kind}, or absent"),
        _ => kind,
    }
}

fn enum_of(one: &EnumDescriptorProto, index: i32, comments: &Comments) -> String {
    let said = said_of_message(comments, &[ENUMS, index]);
    let mut text = format!("\n### {}\n\n{said}", one.name());
    text += "| value | number | means |\n|---|---|---|\n";
    for (place, value) in (0..).zip(&one.value) {
        let said = said_of(comments, &[ENUMS, index, FIELDS, place]);
        let _ = writeln!(text, "| `{}` | {} | {} |", value.name(), value.number(), cell(&said));
    }
    text
}

fn link(name: &str) -> String {
    let name = name.rsplit('.').next().unwrap_or_default();
    format!("[`{name}`](#{})", name.to_lowercase())
}

fn comments_of(file: &FileDescriptorProto) -> Comments {
    let places = file.source_code_info.iter().flat_map(|info| &info.location);
    let said = places.filter_map(|place| {
        let lines = place.leading_comments.as_deref()?.lines();
        let lines: Vec<_> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        Some((place.path.clone(), lines.join("\n").trim().to_owned()))
    });
    said.collect()
}

fn said_of(comments: &Comments, path: &[i32]) -> String {
    comments.get(path).cloned().unwrap_or_default()
}

fn said_of_message(comments: &Comments, path: &[i32]) -> String {
    match comments.get(path) {
        Some(said) => format!("{said}\n\n"),
        None => String::new(),
    }
}
