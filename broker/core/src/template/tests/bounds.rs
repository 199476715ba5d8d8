use proptest::prelude::*;

use super::*;
use crate::template::{ParseFault, TEMPLATE_BYTES_MAX};

/// What templates are made of, and what breaks them.
const PIECES: &[&str] = &[
    "$a",
    "${b.c}",
    "$!x",
    "#set($a = ",
    "#set($l.k = ",
    "#if(",
    "#elseif(",
    "#else",
    "#end",
    "#foreach($i in ",
    "#define($d)",
    "#macro(m)",
    "$d",
    "#break",
    "#stop",
    ")",
    "(",
    "[",
    "]",
    "{",
    "}",
    "..",
    ":",
    ",",
    "1",
    "-3",
    "2.5",
    "99999999999999999999",
    "'a'",
    "\"$a\"",
    "\"",
    "'",
    "true",
    "null",
    "==",
    "!=",
    "<",
    ">=",
    "&&",
    "or ",
    "not ",
    "+",
    "*",
    "/",
    "%",
    "-",
    "$l",
    ".add($l)",
    ".put('k', $a)",
    ".size()",
    ".substring(1)",
    ".replaceAll('(a|)', '$1x')",
    ".split('')",
    ".entrySet()",
    ".remove(0)",
    "$input.path('$')",
    "$input.json('$..x')",
    "$context",
    "$util.parseJson($a)",
    "$util.base64Decode($a)",
    "$foreach.index",
    "\\",
    "\n",
    "##",
    "#*",
    "*#",
    "#[[",
    "]]#",
    " ",
    "é😀",
    "#set($l = [1,2,$l])\n",
    "#set($a = \"$a$a\")",
    "#foreach($i in [1..50])",
    "$l.addAll($l)",
    ".repeat(9)",
    ".intValue()",
    ".indexOf('a', 1)",
];

const SMALL: Limits = Limits { output_bytes_max: 1000, iterations_max: 100, work_max: 200_000 };

#[test]
fn no_loop_runs_longer_than_it_may() {
    assert_eq!(render("#foreach($i in [1..1000])x#end").len(), 1000);
    let iterations_max = 1000;
    let too_many = RenderFault::TooManyIterations { iterations_max };
    assert_eq!(fault("#foreach($i in [1..1001])#end"), too_many);
    let nested = "#foreach($a in [1..1000])".repeat(4) + &"#end".repeat(4);
    assert_eq!(fault(&nested), RenderFault::TooMuchWork);
    assert_eq!(fault("#foreach($i in [1..999999999999])#end"), RenderFault::TooMuchWork);
}

#[test]
fn no_text_grows_longer_than_it_may() {
    let too_long = RenderFault::TooLong { bytes_max: 1 << 20 };
    for step in [
        "\"$x$x\"",
        "$x + $x",
        "$x.concat($x)",
        "$x.replace('a', 'aa')",
        "$x.replaceAll('a', 'aa')",
        "$x.repeat(2)",
    ] {
        let template = format!("#set($x = 'a')#foreach($i in [1..100])#set($x = {step})#end");
        assert_eq!(fault(&template), too_long, "{step}");
    }
    let limits = Limits { output_bytes_max: 3, ..Limits::default() };
    assert_eq!(try_render("abc", Dialect::ApiGateway, limits), Ok("abc".to_owned()));
    let too_long = RenderFault::TooLong { bytes_max: 3 };
    assert_eq!(try_render("abcd", Dialect::ApiGateway, limits), Err(too_long));
}

#[test]
fn no_collection_grows_without_end() {
    let template = "#set($l = [1])#foreach($i in [1..100])#set($v = $l.addAll($l))#end";
    assert_eq!(fault(template), RenderFault::TooMuchWork);
}

#[test]
fn what_holds_itself_is_not_walked_for_ever() {
    for end in ["$l", "$l.equals($k)", "$k.contains($l)", "#set($x = $l == $k)"] {
        let template =
            format!("#set($l = [])#set($k = [])#set($v = $l.add($l))#set($v = $k.add($k)){end}");
        assert_eq!(fault(&template), RenderFault::TooDeep, "{end}");
    }
    let doubled = "#set($l = [])#foreach($i in [1..60])#set($l = [$l, $l])#end";
    assert!(matches!(fault(&format!("{doubled}$l")), RenderFault::TooLong { .. }));
    let equal = format!(
        "{doubled}#set($k = $l)#set($l = [])#foreach($i in [1..60])#set($l = [$l, $l])#end$l.equals($k)"
    );
    assert_eq!(fault(&equal), RenderFault::TooMuchWork);
}

#[test]
fn numbers_that_become_too_large_are_a_fault() {
    let template = "#set($n = 2)#foreach($i in [1..100])#set($n = $n * $n)#end";
    assert_eq!(fault(template), RenderFault::Overflow);
}

#[test]
fn what_nests_too_deeply_is_refused() {
    for (opening, closing) in [
        ("#if(true)", "#end"),
        ("#foreach($i in [1])", "#end"),
        ("#set($x = (", "))"),
        ("#set($x = [", "])"),
        ("#set($x = {1:", "})"),
        ("#set($x = !", ")"),
        ("#set($x = -", ")"),
        ("$x[", "]"),
        ("$x.y(", ")"),
        ("#set($x = 1 + ", ")"),
        ("#set($x = 1 && 1 == ", ")"),
    ] {
        let count = TEMPLATE_BYTES_MAX / (opening.len() + closing.len());
        let (first, inner) = match opening.strip_prefix("#set($x = ") {
            Some(inner) => ("#set($x = ", inner),
            None => ("", opening),
        };
        let inner = if inner.starts_with("$x") { "$x[" } else { inner };
        let text = format!("{first}{}", inner.repeat(count));
        let error = Template::parse(&text).unwrap_err();
        assert_eq!(error.why, ParseFault::TooDeep, "{opening}");
    }
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(PIECES).prop_map(str::to_owned),
        1 => "\\PC{0,4}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_template_panics_or_runs_without_bound(
        pieces in prop::collection::vec(piece(), 0..40),
        body in prop_oneof![Just(BODY.to_owned()), "\\PC{0,20}"],
        is_velocity: bool,
    ) {
        let dialect = if is_velocity { Dialect::Velocity } else { Dialect::ApiGateway };
        if Template::parse(&pieces.concat()).is_ok() {
            let rendered = try_render_body(&pieces.concat(), &body, dialect, SMALL);
            prop_assert!(rendered.map_or(0, |text| text.len()) <= SMALL.output_bytes_max);
        }
    }

    #[test]
    fn no_statement_panics_or_runs_without_bound(
        calls in prop::collection::vec((piece(), piece(), piece()), 0..12),
    ) {
        let mut template = String::from("#set($a = 'ab')#set($l = [1,{'k':2}])#foreach($i in [1..20])");
        for (first, second, third) in &calls {
            let call = format!("#set($a = {first}{second})#set($v = $l{third})$a$l");
            if Template::parse(&call).is_ok() {
                template.push_str(&call);
            }
        }
        template.push_str("#end");
        if Template::parse(&template).is_ok() {
            let rendered = try_render(&template, Dialect::ApiGateway, SMALL);
            prop_assert!(rendered.map_or(0, |text| text.len()) <= SMALL.output_bytes_max);
        }
    }
}
