//! `#[derive(Setting)]`: the keys of a section of the configuration, as its own source has them.
//!
//! Names, comments and defaults are those that serde and readers of the code see, so that nothing that is
//! said of them elsewhere can differ. What serde is told and is not understood here does not compile.
//!
//! A field may have `#[setting(…)]` with
//!
//! * `words = "…"`: what may be written, where its type does not say;
//! * `default = …`: what an `Option` that is missing comes to: an expression that can be displayed;
//! * `secret = Variant`: one of `Secret`, how it is masked.

use std::fmt::Write as _;

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// What stands before a field or a variant, or a whole item.
#[derive(Default)]
struct Attributes {
    /// Literals, as they were written.
    doc: Vec<String>,
    /// Each argument of `serde`: its name, and what is behind `=`.
    serde: Vec<(String, String)>,
    setting: Vec<(String, String)>,
}

struct Field {
    attributes: Attributes,
    name: String,
    kind: String,
}

type Tokens = std::iter::Peekable<proc_macro::token_stream::IntoIter>;

#[proc_macro_derive(Setting, attributes(setting))]
pub fn derive_setting(item: TokenStream) -> TokenStream {
    let made = implement(item).unwrap_or_else(|fault| format!("compile_error!({fault:?});"));
    made.parse().expect("what is made here is Rust")
}

fn implement(item: TokenStream) -> Result<String, String> {
    let mut tokens = item.into_iter().peekable();
    let attributes = Attributes::take(&mut tokens)?;
    skip_visibility(&mut tokens);
    let kind = tokens.next().map(|token| token.to_string()).unwrap_or_default();
    let name = tokens.next().map(|token| token.to_string()).unwrap_or_default();
    let Some(TokenTree::Group(body)) = tokens.next() else {
        return Err(format!("{name}: only what has braces, and no parameters, is a setting"));
    };
    let (shape, written) = match &*kind {
        "struct" => of_struct(&name, &attributes, &body)?,
        "enum" => of_enum(&name, &attributes, &body)?,
        other => return Err(format!("{name}: no setting is of the kind {other}")),
    };
    Ok(format!(
        "#[automatically_derived]
        impl crate::config::reference::Setting for {name} {{
            fn shape() -> crate::config::reference::Shape {{ {shape} }}
            fn written(&self) -> ::core::option::Option<::serde_json::Value> {{ {written} }}
        }}"
    ))
}

fn of_struct(
    name: &str,
    attributes: &Attributes,
    body: &Group,
) -> Result<(String, String), String> {
    attributes.check(&["deny_unknown_fields", "default"])?;
    if attributes.serde("deny_unknown_fields").is_none() {
        return Err(format!("{name}: unknown keys are refused"));
    }
    let has_default = attributes.serde("default").is_some();
    let (mut keys, mut written) = (String::new(), String::new());
    for field in fields_of(body)? {
        let Field { attributes, name: field, kind } = &field;
        attributes.check(&["default", "deserialize_with", "rename"])?;
        let key = attributes.serde("rename").map_or(field.as_str(), |text| text.trim_matches('"'));
        let shape = match attributes.setting("words") {
            Some(words) => format!("crate::config::reference::Shape::Words({words})"),
            None => format!("<{kind} as crate::config::reference::Setting>::shape()"),
        };
        let default = match (attributes.setting("default"), attributes.serde("default")) {
            (Some(text), _) => {
                format!("Absent(::core::option::Option::Some(({text}).to_string()))")
            }
            (None, Some("")) => {
                format!("of(&<{kind} as ::core::default::Default>::default())")
            }
            (None, Some(path)) => format!("of(&{}())", path.trim_matches('"')),
            (None, None) if has_default => {
                format!("of(&<{name} as ::core::default::Default>::default().{field})")
            }
            (None, None) if kind.starts_with("Option") => {
                "Absent(::core::option::Option::None)".to_owned()
            }
            (None, None) => "Required".to_owned(),
        };
        let secret = match attributes.setting("secret") {
            Some(secret) => {
                format!("::core::option::Option::Some(crate::config::reference::Secret::{secret})")
            }
            None => "::core::option::Option::None".to_owned(),
        };
        let doc = attributes.doc.join(", ");
        let _ = write!(
            keys,
            "crate::config::reference::Key {{
                name: {key:?},
                doc: crate::config::reference::prose(&[{doc}]),
                shape: {shape},
                default: crate::config::reference::Default::{default},
                secret: {secret},
            }},"
        );
        let _ = write!(
            written,
            "if let Some(value) = crate::config::reference::Setting::written(&self.{field}) {{
                map.insert({key:?}.to_owned(), value);
            }}"
        );
    }
    let doc = attributes.doc.join(", ");
    let shape = format!(
        "crate::config::reference::Shape::Group(crate::config::reference::Group {{
            kind: ::core::concat!(::core::module_path!(), \"::\", {name:?}),
            doc: crate::config::reference::prose(&[{doc}]),
            keys: ::std::vec![{keys}],
        }})"
    );
    let written = format!(
        "let mut map = ::serde_json::Map::new();
        {written}
        Some(::serde_json::Value::Object(map))"
    );
    Ok((shape, written))
}

fn of_enum(name: &str, attributes: &Attributes, body: &Group) -> Result<(String, String), String> {
    attributes.check(&["rename_all"])?;
    let case = attributes.serde("rename_all").map(|case| case.trim_matches('"'));
    let (mut words, mut arms) = (String::new(), String::new());
    let mut tokens = body.stream().into_iter().peekable();
    while tokens.peek().is_some() {
        let attributes = Attributes::take(&mut tokens)?;
        attributes.check(&[])?;
        let variant = tokens.next().map(|token| token.to_string()).unwrap_or_default();
        if !matches!(tokens.next(), Some(TokenTree::Punct(comma)) if comma == ',') {
            return Err(format!(
                "{name}::{variant}: only plain variants, with a comma behind each"
            ));
        }
        let word = match case {
            Some("snake_case") => snake(&variant),
            Some("SCREAMING_SNAKE_CASE") => snake(&variant).to_uppercase(),
            _ => return Err(format!("{name}: how are its variants written?")),
        };
        let doc = attributes.doc.join(", ");
        let _ = write!(words, "({word:?}, crate::config::reference::prose(&[{doc}])),");
        let _ = write!(arms, "{name}::{variant} => {word:?},");
    }
    let shape = format!("crate::config::reference::Shape::OneOf(::std::vec![{words}])");
    Ok((shape, format!("Some(::serde_json::Value::from(match self {{ {arms} }}))")))
}

fn fields_of(body: &Group) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    let mut tokens = body.stream().into_iter().peekable();
    while tokens.peek().is_some() {
        let attributes = Attributes::take(&mut tokens)?;
        skip_visibility(&mut tokens);
        let name = tokens.next().map(|token| token.to_string()).unwrap_or_default();
        if !matches!(tokens.next(), Some(TokenTree::Punct(colon)) if colon == ':') {
            return Err(format!("{name}: a field has a name and a type"));
        }
        let (mut kind, mut depth) = (Vec::new(), 0);
        for token in tokens.by_ref() {
            match &token {
                TokenTree::Punct(punct) if *punct == ',' && depth == 0 => break,
                TokenTree::Punct(punct) if *punct == '<' => depth += 1,
                TokenTree::Punct(punct) if *punct == '>' => depth -= 1,
                _ => (),
            }
            kind.push(token);
        }
        let kind = kind.into_iter().collect::<TokenStream>().to_string();
        fields.push(Field { attributes, name, kind });
    }
    Ok(fields)
}

fn skip_visibility(tokens: &mut Tokens) {
    if matches!(tokens.peek(), Some(TokenTree::Ident(word)) if word.to_string() == "pub") {
        tokens.next();
        let is_group = |group: &Group| group.delimiter() == Delimiter::Parenthesis;
        if matches!(tokens.peek(), Some(TokenTree::Group(group)) if is_group(group)) {
            tokens.next();
        }
    }
}

fn snake(variant: &str) -> String {
    let mut word = String::new();
    for letter in variant.chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.extend(letter.to_lowercase());
    }
    word
}

impl Attributes {
    fn take(tokens: &mut Tokens) -> Result<Attributes, String> {
        let mut attributes = Attributes::default();
        while matches!(tokens.peek(), Some(TokenTree::Punct(hash)) if *hash == '#') {
            tokens.next();
            let Some(TokenTree::Group(attribute)) = tokens.next() else {
                return Err("an attribute has brackets".to_owned());
            };
            let mut inner = attribute.stream().into_iter();
            let name = inner.next().map(|token| token.to_string()).unwrap_or_default();
            match (&*name, inner.next()) {
                ("doc", Some(_)) => {
                    attributes.doc.extend(inner.next().map(|token| token.to_string()));
                }
                ("serde", Some(TokenTree::Group(group))) => {
                    attributes.serde.extend(arguments_of(&group));
                }
                ("setting", Some(TokenTree::Group(group))) => {
                    attributes.setting.extend(arguments_of(&group));
                }
                _ => (),
            }
        }
        Ok(attributes)
    }

    fn serde(&self, name: &str) -> Option<&str> {
        find(&self.serde, name)
    }

    fn setting(&self, name: &str) -> Option<&str> {
        find(&self.setting, name)
    }

    fn check(&self, known: &[&str]) -> Result<(), String> {
        let settings = ["words", "default", "secret"];
        let unknown = self.serde.iter().find(|(name, _)| !known.contains(&&**name));
        let unknown =
            unknown.or_else(|| self.setting.iter().find(|(name, _)| !settings.contains(&&**name)));
        match unknown {
            Some((name, _)) => Err(format!("`{name}` is not understood here")),
            None => Ok(()),
        }
    }
}

fn find<'a>(arguments: &'a [(String, String)], name: &str) -> Option<&'a str> {
    arguments.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// `name` and `name = …`, with commas between them.
fn arguments_of(group: &Group) -> Vec<(String, String)> {
    let mut arguments = vec![Vec::new()];
    for token in group.stream() {
        match &token {
            TokenTree::Punct(comma) if *comma == ',' => arguments.push(Vec::new()),
            _ => arguments.last_mut().expect("there is one").push(token),
        }
    }
    let arguments = arguments.into_iter().filter(|argument| !argument.is_empty());
    let pairs = arguments.map(|argument| {
        let mut tokens = argument.into_iter();
        let name = tokens.next().map(|token| token.to_string()).unwrap_or_default();
        let value = tokens.skip(1).collect::<TokenStream>().to_string();
        (name, value)
    });
    pairs.collect()
}
