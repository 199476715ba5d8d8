use super::*;
use crate::route::jsonpath::PathFault;

#[test]
fn input_gives_json_as_it_is_without_its_spaces() {
    check(&[
        ("$input.json('$.action')", "\"join\""),
        ("$input.json('$.data')", r#"{"room":"r1","tags":["a","b"]}"#),
        ("$input.json('$.f') $input.json('$.none') $input.json('$.t')", "1.50 null true"),
        ("$input.json('$.missing')", "\"\""),
        ("$input.json('$..c') $input.json('$.list[*].c') $input.json('$..x')", "[5,6] [5,6] []"),
        ("$input.json('action') $input.json(\"$['data']['room']\")", "\"join\" \"r1\""),
    ]);
    let text = "$input.body|$input.json('$')";
    assert_eq!(render_body(text, r#"{"b": 1, "a": [ ]}"#), r#"{"b": 1, "a": [ ]}|{"b":1,"a":[]}"#);
}

#[test]
fn input_gives_values_whose_arrays_print_as_json() {
    check(&[
        (
            "$input.path('$.action') $input.path('$.n') $input.path('$.f') $input.path('$.t')",
            "join 7 1.5 true",
        ),
        ("<$input.path('$.none')$input.path('$.missing')>", "<>"),
        (
            "#set($root = $input.path('$'))$root.data.room $root.list[1].c $root.data.tags.size()",
            "r1 6 2",
        ),
        ("$input.path('$.data')", r#"{room=r1, tags=["a","b"]}"#),
        ("$input.path('$.list')", r#"[{"c":5},{"c":6}]"#),
        ("$input.path('$..c')", "[5,6]"),
        ("#foreach($i in $input.path('$.list'))$i.c#if($foreach.hasNext),#end#end", "5,6"),
        ("#set($d = $input.path('$.data'))$d.keySet()", "[room, tags]"),
    ]);
}

#[test]
fn a_body_that_is_not_json_is_a_text() {
    assert_eq!(
        render_body("$input.body $input.json('$') $input.path('$')", "a\"b"),
        "a\"b \"a\\\"b\" a\"b"
    );
    assert_eq!(render_body("<$input.path('$.x')> $input.json('$.x')", "hello"), "<> \"\"");
    assert_eq!(render_body("$input.body $input.json('$')", ""), "{} {}");
}

#[test]
fn a_path_that_is_none_is_a_fault() {
    let filter = fault("$input.json('$.a[?(@.b)]')");
    let why = PathFault::Filter;
    assert_eq!(filter, RenderFault::Path { path: "$.a[?(@.b)]".into(), at: 3, why });
}

#[test]
fn parameters_are_looked_for_in_the_query_before_the_headers() {
    check(&[
        (
            "$input.params('q') $input.params('x-KEY') $input.params('Host') <$input.params('no')>",
            "c 2 query <>",
        ),
        (
            "$input.params().querystring.q $input.params().header['x-key'] $input.params().path",
            "c 2 {}",
        ),
        (
            "$input.params().keySet() $input.params().get('header').keySet()",
            "[path, querystring, header] [Host, x-key]",
        ),
    ]);
}

#[test]
fn the_context_and_stage_variables_are_maps() {
    check(&[
        (
            "$context.connectionId $context.connectedAt ${context.identity.sourceIp} $context['authorizer'].principalId",
            "abc= 1701245041796 ::1 me",
        ),
        ("<$context.nothing.here>", "<>"),
        (
            "$stageVariables.tier ${stageVariables['url']} $stageVariables.keySet()",
            "gold x.test/a [tier, url]",
        ),
    ]);
}

#[test]
fn utilities_convert() {
    check(&[
        ("$util.urlEncode('a b&ä*~') $util.urlDecode('a+b%26%C3%A4')", "a+b%26%C3%A4*%7E a b&ä"),
        ("$util.base64Encode('héllo') $util.base64Decode('aMOpbGxv')", "aMOpbGxv héllo"),
        ("$util.escapeJavaScript('a\"b\\c''d/é😀')", "a\\\"b\\\\c\\'d\\/\\u00E9\\uD83D\\uDE00"),
        (
            "$util.escapeJavaScript($input.json('$.data'))",
            "{\\\"room\\\":\\\"r1\\\",\\\"tags\\\":[\\\"a\\\",\\\"b\\\"]}",
        ),
        (
            "#set($j = $util.parseJson('{\"a\":[1,{\"b\":null}]}'))$j.a[0] $j.a $j",
            "1 [1,{\"b\":null}] {a=[1,{\"b\":null}]}",
        ),
        (
            "$util.parseJson('\"x\"')$util.parseJson('12345678901234567890')",
            "x12345678901234567890",
        ),
        ("<$util.nothing('x')$util.urlEncode()>", "<>"),
    ]);
    assert_eq!(render("$util.escapeJavaScript(\"a\nb\t\")"), "a\\nb\\t");
    assert_eq!(fault("$util.parseJson('{')"), RenderFault::NotJson);
    assert_eq!(fault("$util.base64Decode('?')"), RenderFault::NotBase64);
}

fn render_body(template: &str, body: &str) -> String {
    try_render_body(template, body, Dialect::ApiGateway, Limits::default()).unwrap()
}
