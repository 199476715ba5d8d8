//! From a message to its route: the grammar of selection expressions, JSONPath, what values are called,
//! and what becomes of messages that are none of all that.

use std::collections::BTreeMap;

use posthorn_core::message::Message;
use posthorn_core::route::expression::{EvaluateError, Expression, Purpose, RequestBody};
use posthorn_core::route::json;
use posthorn_core::route::table::{RouteKey, RouteKeyError, RouteTable, Selected};
use proptest::prelude::*;

/// API Gateway's own example.
const CHAT: &str = r#"{"service":"chat","action":"join","data":{"room":"room1234"}}"#;

#[test]
fn expressions_come_to_what_api_gateways_documentation_says() {
    for (expression, text) in [
        ("$request.body.action", "join"),
        ("${request.body.action}", "join"),
        ("${request.body.service}/${request.body.action}", "chat/join"),
        ("${request.body.action}-${request.body.invalidPath}", "join-"),
        ("action", "action"),
        (r"\$default", "$default"),
        // And what follows from its rules.
        ("$request.body.data.room", "room1234"),
        ("${request.body.action}-beta", "join-beta"),
        ("$request.body.service$request.body.action", "chatjoin"),
        ("v1/$request.body.action/x", "v1/join/x"),
        ("$request.body.action:x", "join:x"),
        (r"\$${request.body.action}\\", r"$join\"),
        ("$request.body.none", ""),
        ("$request.body.service.none", ""),
        ("$request.body.data", r#"{"room":"room1234"}"#),
    ] {
        assert_eq!(evaluate(expression, CHAT).as_deref(), Ok(text), "{expression}");
    }
}

#[test]
fn evaluation_is_a_single_pass() {
    let message = r#"{"action":"$request.body.secret","secret":"no","b":"${request.body.secret}"}"#;
    assert_eq!(evaluate("$request.body.action", message).unwrap(), "$request.body.secret");
    assert_eq!(evaluate("x${request.body.b}", message).unwrap(), "x${request.body.secret}");
}

#[test]
fn a_path_leads_to_what_jsonpath_says() {
    let message = r#"{"a":{"b c":1,"d.e":2,"f":[10,20,{"g":30}]},"list":["item1","item2"],
        "x":[{"g":1},{"g":2}],"'":7,"ü":8,"null":null,"empty":{},"twice":1,"twice":2}"#;
    for (path, text) in [
        (".list", "[item1, item2]"),
        (".list[0]", "item1"),
        (".list[-1]", "item2"),
        (".list[2]", ""),
        (".list[*]", "[item1, item2]"),
        ("['a']['b c']", "1"),
        (r#"["a"]["d.e"]"#, "2"),
        (".a.f[2].g", "30"),
        (".a.f[2]['g']", "30"),
        (".x[*].g", "[1, 2]"),
        ("..g", "[30, 1, 2]"),
        (r"['\'']", "7"),
        (".ü", "8"),
        (".null", "null"),
        (".empty", "{}"),
        (".twice", "2"),
        (".none[*]", ""),
    ] {
        let expression = format!("${{request.body{path}}}");
        assert_eq!(evaluate(&expression, message).as_deref(), Ok(text), "{path}");
    }
}

#[test]
fn every_kind_of_value_has_a_text() {
    for (value, text) in [
        (r#""""#, ""),
        (r#""\u00fc\n\"""#, "ü\n\""),
        (r#""\ud83d\ude00""#, "😀"),
        (r#""\ud800""#, "\u{fffd}"),
        ("0", "0"),
        ("-0.0", "0"),
        ("1.50", "1.5"),
        ("1e3", "1000"),
        ("1e999999", "1e999999"),
        ("true", "true"),
        ("false", "false"),
        ("null", "null"),
        (r#"[ 1, "a" , null]"#, "[1, a, null]"),
        (r#"{ "b" : [ 1 , 2 ] }"#, r#"{"b":[1,2]}"#),
    ] {
        let message = format!(r#"{{"action":{value}}}"#);
        assert_eq!(evaluate("$request.body.action", &message).as_deref(), Ok(text), "{value}");
    }
}

#[test]
fn what_cannot_be_an_expression_is_refused_with_its_place() {
    for (expression, at, why) in [
        ("", 0, "the expression is empty"),
        ("${request.body.a", 0, "`${` without `}`"),
        ("a${request.body.a", 1, "`${` without `}`"),
        (r"a\b", 1, "a backslash must be followed"),
        (r"a\", 1, "a backslash must be followed"),
        ("$", 1, "unknown variable ``"),
        ("$input.body", 1, "unknown variable `input.body`"),
        ("$request.body", 13, "the path is empty"),
        ("$request.bodyaction", 1, "unknown variable"),
        ("$request.header.a", 1, "has no value here"),
        ("$context.authorizer.usageIdentifierKey", 1, "has no value here"),
        ("${request.body.}", 15, "a dot wants a name"),
        ("${request.body.a[}", 0, "`${` without `}`"),
        ("${request.body.a[x]}", 17, "brackets hold a name in quotes"),
        ("${request.body.a[?(@.b)]}", 17, "filters"),
        ("${request.body.a[(1)]}", 17, "scripts"),
        ("${request.body.a[1:2]}", 17, "slices"),
        ("${request.body.a[1,2]}", 17, "unions"),
        ("${request.body.a.length()}", 23, "functions"),
        ("${request.body..a..b}", 18, "`..` may stand in a path once"),
    ] {
        let error = Expression::parse(expression, Purpose::Route).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(why), "{expression}: {said}");
        assert!(error.at.abs_diff(at) <= 2, "{expression}: at {}, not {at}", error.at);
    }
    let long = "x".repeat(2000);
    assert!(Expression::parse(&long, Purpose::Route).is_err());
}

#[test]
fn a_message_takes_the_route_that_it_names_or_default() {
    let action = "$request.body.action";
    let deep = |depth: usize| {
        format!(r#"{{"action":"join","deep":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    let long = format!(r#"{{"action":"{}"}}"#, "x".repeat(10_000));
    let large = format!(r#"{{"{}":1,"action":"join"}}"#, "k".repeat(1 << 20));
    for (expression, message, key) in [
        (action, CHAT, Some("join")),
        (action, r#"{"action":"JOIN"}"#, Some("$default")),
        (action, r#"{"action":"join "}"#, Some("$default")),
        (action, r#"{"action":"leave","action":"join"}"#, Some("join")),
        (action, r#"{"action":"jo\u0069n"}"#, Some("join")),
        (action, r#"{"action":"$default"}"#, Some("$default")),
        // Nobody connects or disconnects by saying so.
        (action, r#"{"action":"$connect"}"#, Some("$default")),
        (action, r#"{"action":"$disconnect"}"#, Some("$default")),
        (action, r#"{"action":"constructor"}"#, Some("$default")),
        (action, r#"{"action":"__proto__"}"#, Some("$default")),
        (action, r#"{"action":7}"#, Some("7")),
        (action, r#"{"action":7.0}"#, Some("7")),
        (action, r#"{"action":null}"#, Some("null")),
        (action, r#"{"action":["a","b"]}"#, Some("[a, b]")),
        (action, r#"{"action":""}"#, Some("$default")),
        (action, &long, Some("$default")),
        (action, &large, Some("join")),
        (action, &deep(60), Some("join")),
        (action, &deep(100), Some("$default")),
        (action, &deep(100_000), Some("$default")),
        (action, "", Some("$default")),
        (action, "not JSON", Some("$default")),
        (action, "7", Some("$default")),
        (action, r#"["join"]"#, Some("$default")),
        (action, r#"{action:"join"}"#, Some("$default")),
        (action, r#"{"action":"join"} and more"#, Some("$default")),
        (action, "\u{feff}{\"action\":\"join\"}", Some("$default")),
        // A mixture asks for what is not there; a static expression asks for nothing.
        ("${request.body.none}join", r#"{"a":1}"#, Some("join")),
        ("${request.body.none}join", "not JSON", Some("$default")),
        ("join", "not JSON", Some("join")),
        ("join", "", Some("join")),
        (r"\$default", CHAT, Some("$default")),
        ("none", CHAT, Some("$default")),
    ] {
        assert_eq!(
            select(expression, &Message::text(message), true).as_deref(),
            key,
            "{message:.80}"
        );
        let without = key.filter(|key| *key != "$default");
        let selected = select(expression, &Message::text(message), false);
        assert_eq!(selected.as_deref(), without, "{message:.80}");
    }
    let binary = Message::binary(CHAT.as_bytes().to_vec());
    assert_eq!(select(action, &binary, true).as_deref(), Some("$default"));
    assert_eq!(select(action, &binary, false), None);
    assert_eq!(select("join", &binary, false).as_deref(), Some("join"));
}

#[test]
fn route_keys_are_free_text_without_a_dollar_before_it() {
    for key in ["join", "chat/join", "ü b", "[a, b]", "$connect", "$disconnect", "$default"] {
        assert_eq!(key.parse::<RouteKey>().unwrap().as_str(), key);
    }
    for (key, error) in [
        ("", RouteKeyError::Empty),
        ("$other", RouteKeyError::Reserved),
        ("a\nb", RouteKeyError::ControlCharacter),
        (&"x".repeat(129), RouteKeyError::TooLong { bytes: 129 }),
    ] {
        assert_eq!(key.parse::<RouteKey>(), Err(error), "{key}");
    }
}

proptest! {
    #[test]
    fn what_is_json_agrees_with_another_parser(text in json_like()) {
        let ours = json::parse(&text).is_ok();
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        prop_assert_eq!(ours, theirs, "{}", text);
    }

    #[test]
    fn members_are_found_as_in_a_tree(tree in tree(), key in "[a-c]{1,2}") {
        for text in [tree.to_string(), format!("{tree:#}")] {
            let path = [json::Key::Name(key.as_str().into())];
            let found = json::find(&text, &path).unwrap().map(|value| value.raw().to_owned());
            let found: Option<serde_json::Value> =
                found.map(|raw| serde_json::from_str(&raw).unwrap());
            prop_assert_eq!(found.as_ref(), tree.get(&key));
        }
    }

    #[test]
    fn no_expression_and_no_message_panics(
        expression in r"(\$|\{|\}|\\|\[|\]|'|\*|\.\.|request\.body|\.action|[a-z0-9 ü])*",
        message in prop_oneof![json_like(), any::<String>()],
    ) {
        if let Ok(parsed) = Expression::parse(&expression, Purpose::Route) {
            let _ = parsed.evaluate(&RequestBody(&message));
        }
    }
}

/// Text that is JSON more often than not.
fn json_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            " ",
            "\n",
            "\"a\"",
            "\"\\u00fc\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "0",
            "-1",
            "01",
            "1.",
            "1.5",
            "1e5",
            "1e",
            "-",
            "true",
            "tru",
            "null",
            "\"",
            "\\",
            "\t",
        ])
        .prop_map(str::to_owned),
        tree().prop_map(|tree| tree.to_string()),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn tree() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        "[a-cü\"\\\\\n]{0,3}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let members = prop::collection::btree_map("[a-c]{1,2}", inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Into::into),
            members.prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

fn evaluate(expression: &str, message: &str) -> Result<String, EvaluateError> {
    let parsed = Expression::parse(expression, Purpose::Route).expect(expression);
    parsed.evaluate(&RequestBody(message)).map(std::borrow::Cow::into_owned)
}

fn select(expression: &str, message: &Message, with_default: bool) -> Option<String> {
    let keys = ["$connect", "$disconnect", "$default", "join", "7", "null", "[a, b]"];
    let keys = keys.into_iter().filter(|key| with_default || *key != "$default");
    let routes: BTreeMap<RouteKey, ()> =
        keys.map(|key| (key.parse().expect("a key"), ())).collect();
    let expression = Expression::parse(expression, Purpose::Route).expect(expression);
    match RouteTable::new(expression, routes).select(message) {
        Selected::None => None,
        selected => selected.key().map(str::to_owned),
    }
}
