use super::*;
use crate::template::{ParseFault, Position, TEMPLATE_BYTES_MAX};

#[test]
fn text_stays_as_it_is() {
    for text in [
        "",
        "<a href=\"#\">color: #13ff93; $ 5, $5, {$}, ${1}, 100% \\ \\\\ \\# \\$ # $",
        "ä😀\r\n\t",
        "#unknown $",
        "\\{\\n",
    ] {
        assert_eq!(render(text), text);
    }
}

#[test]
fn references_print_their_values() {
    check(&[
        ("#set($a = 'x')$a ${a}b $!a $!{a}b $a. $a}", "x xb x xb x. x}"),
        ("#set($a_b-c = 1)$a_b-c", "1"),
        (
            "#set($m = {'k': {'l': [1, 'two']}})$m.k.l[1] ${m.k.l[0]} $m['k'][\"l\"].size()",
            "two 1 2",
        ),
    ]);
}

#[test]
fn what_is_undefined_is_as_an_empty_text_to_api_gateway() {
    check(&[
        ("<$x|${x}|$!x|$x.y.z()|$x[0]>", "<||||>"),
        ("#if($x)yes#end#if(!$x)no#end", "yes"),
        ("#if($x == '')same#end#if($x == $y)same#end#if($x == 'a')other#end", "samesame"),
        ("#if($x && $input.path('$.none'))both#end", "both"),
        ("#if('')yes#end#if(0)yes#end#if(false)no#end", "yesyes"),
        ("#set($m = {})#set($m[$key] = 'foo')$m", "{=foo}"),
    ]);
}

#[test]
fn what_is_undefined_is_false_and_prints_itself_in_velocity() {
    for (template, text) in [
        ("$x ${x.y} $!x|$!{x} $x.y(1)", "$x ${x.y} | $x.y(1)"),
        ("#if($x)yes#else no#end", " no"),
        ("#if('')yes#end#if(0)yes#end#if([])yes#end#if({})yes#end#if(0.0)yes#end", ""),
        ("#if('a' && 1 && [1] && 0.1)yes#end", "yes"),
        ("#if($x == '')same#end#if($x == $null)same#end", "same"),
        ("#set($s = \"<$x>\")$s", "<$x>"),
    ] {
        assert_eq!(render_as(template, Dialect::Velocity), text, "{template}");
    }
}

#[test]
fn a_backslash_takes_the_meaning_of_what_follows() {
    check(&[
        ("#set($a = 'foo')$a \\$a \\\\$a \\\\\\$a", "foo $a \\foo \\$a"),
        ("\\${a.b} \\$!a", "${a.b} $!a"),
        ("\\#end \\# end \\#if(\\$x)", "#end \\# end #if($x)"),
        ("#set($a = 'foo')\\#set( $a = \"foo\" )", "#set( foo = \"foo\" )"),
        ("#set($n = 'x')#set($s = \"hello, \\$n\")$s", "hello, $n"),
    ]);
}

#[test]
fn conditions_choose_the_first_that_is_true() {
    check(&[
        ("#if(true)a#{else}b#end", "a"),
        ("#if(false)a#{else}b#{end}c", "bc"),
        ("#if(false)a#elseif(1 == 1)b#elseif(true)c#else d#end", "b"),
        ("#if(false) one #elseif (false) two #else three #end", " three "),
        ("#if(true)#if(false)a#else#if(true)b#end#end#end", "b"),
    ]);
}

#[test]
fn operators_bind_as_in_java() {
    check(&[
        ("#set($a = 2 + 5 * 4 - 6 / 4 % 2)$a", "21"),
        ("#set($a = 4 > 2 + 5)$a", "false"),
        ("#set($a = (5 + 4) > 2)$a", "true"),
        ("#set($a = 10 - 3 - 2)$a", "5"),
        ("#set($a = -3 + - 2)$a #set($b = 5 - -2)$b", "-5 7"),
        ("#set($a = 100.0 / 50)$a #set($b = .5*.1)$b", "2.0 0.05"),
        ("#set($a = 7 / 2)$a #set($b = 1 / 0)$b|", "3 |"),
        ("#set($a = 'x' + 1 + 2)$a #set($b = 1 + 2 + 'x')$b", "x12 3x"),
        ("#set($a = true || false && false)$a", "true"),
        ("#set($a = not false and !false)$a", "true"),
        ("#set($a = 1 lt 2 and 2 le 2 and 3 gt 2 and 3 ge 3 and 1 eq 1 and 1 ne 2)$a", "true"),
        ("#set($a = false or 1 == 1.0)$a", "true"),
        ("#set($a = '1' == 1)$a #set($b = 'true' == true)$b", "true true"),
        ("#set($a = 'a' < 'b')$a #set($b = $x > 1)$b", "false false"),
        ("#set($a = [1, {'k': 2}] == [1, {'k': 2}])$a #set($b = [1] == [2])$b", "true false"),
    ]);
}

#[test]
fn a_chain_stops_where_it_is_decided() {
    check(&[
        ("#set($l = [])#if(false && $l.add(1))#end$l.size()", "0"),
        ("#set($l = [])#if(true || $l.add(1))#end$l.size()", "0"),
    ]);
}

#[test]
fn quotes_interpolate_if_they_are_double() {
    check(&[
        ("#set($n = 'x')#set($s = \"<$n${n}n $n.length()>\")$s", "<xxn 1>"),
        ("#set($n = 'x')#set($s = '<$n>')$s", "<$n>"),
        ("#set($s = \"{\"\"a\"\": 2}\")$s #set($t = 'it''s')$t", "{\"a\": 2} it's"),
        ("#set($s = \"\\\\\\\\bat\\\\nman\")$s", "\\\\\\\\bat\\\\nman"),
        ("#set($s = \"#if(true)a#{else}b#end\")$s", "a"),
        ("#set($s = \"two\nlines\")$s", "two\nlines"),
    ]);
}

#[test]
fn lists_maps_and_ranges_are_written_down() {
    check(&[
        ("#set($l = [])$l #set($m = {})$m", "[] {}"),
        ("#set($l = [1, 'a', \"b\", [true], $x])$l", "[1, a, b, [true], null]"),
        ("#set($m = {'b': 1, \"a\": 'x', 3: [1]})$m", "{b=1, a=x, 3=[1]}"),
        (
            "#set($r = [1..3])$r #set($d = [2..-2])$d #set($n = 3)#foreach($i in [0..$n])$i#end",
            "[1, 2, 3] [2, 1, 0, -1, -2] 0123",
        ),
        ("[1..3] {'a': 1}", "[1..3] {'a': 1}"),
        ("#set($m = {'a': 1})#set($m.b = 2)#set($m['c'] = 3)$m", "{a=1, b=2, c=3}"),
        ("#set($l = ['a', 'b'])#set($i = 1)#set($l[$i] = 'c')$l", "[a, c]"),
        ("#set($l = [1])#set($k = $l)#set($void = $k.add(2))$l", "[1, 2]"),
    ]);
}

#[test]
fn loops_know_where_they_are() {
    check(&[
        (
            "#foreach($i in ['a', 'b'])$i$foreach.index$foreach.count$velocityCount#if($foreach.hasNext),#end#end",
            "a011,b122",
        ),
        ("#foreach($i in [1..3])#if($foreach.first)<#end$i#if($foreach.last)>#end#end", "<123>"),
        ("#foreach($i in [1..3])$i#if($velocityHasNext),#end#end", "1,2,3"),
        (
            "#foreach($j in [1,2])#foreach($i in [3,4])$foreach.parent.count$foreach.count,#end$foreach.count|#end",
            "11,12,1|21,22,2|",
        ),
        ("#foreach($v in {'a': 1, 'b': 2})$v#end", "12"),
        ("#foreach($i in $nothing)a#end#foreach($i in 5)a#end", ""),
        ("#foreach($i in [1..9])#if($i == 3)#break#end$i#end.", "12."),
        ("#foreach($i in [1..9])$i#stop#end.", "1"),
        ("#set($i = 1)#foreach($i in [2, 3])$i#set($i = 9)#end$i", "231"),
        ("#set($v = 1)#foreach($i in [2, 3])$v#set($v = $i)#end$v", "123"),
    ]);
}

#[test]
fn definitions_are_rendered_where_they_are_named() {
    check(&[
        ("#define($d)$v#end#set($v = 1)$d#set($v = 2)$d", "12"),
        ("#define($d)hi#end$d()$d", "hi()hi"),
        ("#define($d)$foreach.index#end#foreach($x in [1..3])$d#end", "012"),
        ("#define($d)a/b#end$util.escapeJavaScript($d) $d.length()", "a\\/b 3"),
    ]);
    assert_eq!(fault("#define($d)$d#end$d"), RenderFault::TooDeep);
}

#[test]
fn a_directive_ends_its_line_and_leaves_what_is_before_it() {
    check(&[
        ("a\n  #set($x = 1)  \n  b", "a\n    b"),
        ("#if(true)\nhello##\n#end", "hello"),
        ("hello #if(true)x.\n#if(true)y\n#end.\n#end z", "hello x.\ny\n.\n z"),
        ("#foreach($v in [1..3])$v\n#end", "1\n2\n3\n"),
        ("#foreach($v in [1..2])\r\n$v\r\n#end\r\nx", "1\r\n2\r\nx"),
        ("b\n#foreach($v in [1])$v#end\n\nb", "b\n1\nb"),
        ("#define($d)$v#end\n#set($v = 'foo')\n$d\n", "foo\n"),
    ]);
}

#[test]
fn comments_and_unparsed_text() {
    check(&[
        ("## all\nStuff\nMore## $x #if\n.", "Stuff\nMore."),
        ("a#* b\n#if $x *#\nc", "a\nc"),
        ("#[[ $x #if(## ]]#.", " $x #if(## ."),
        ("#** formal *#x", "x"),
    ]);
}

#[test]
fn macros_are_neither_made_nor_called() {
    check(&[
        ("#macro(m $a)x#end#m($a)", "#m($a)"),
        (
            "#set($v = 1)#return($v) #evaluate(\"$v)\") #parse('f')",
            "#return($v) #evaluate(\"$v)\") #parse('f')",
        ),
    ]);
}

#[test]
fn mistakes_are_placed() {
    use ParseFault::*;
    for (template, line, column, why) in [
        ("a\n #if(true)", 2, 6, Unclosed("#end")),
        ("#end", 1, 5, Stray),
        ("#if(true)#else#else#end", 1, 20, Stray),
        ("#foreach($x in [1])#else#end", 1, 25, Stray),
        ("ä #set($a 1)", 1, 11, Expected("=")),
        ("#set(a = 1)", 1, 6, Expected("$")),
        ("#set($a = )", 1, 11, NotAnExpression),
        ("#set($a = b)", 1, 11, NotAnExpression),
        ("#set($a = 1", 1, 12, Expected(")")),
        ("#set $a = 1", 1, 1, Expected("(")),
        ("\n\n#set($a = 'x)", 3, 11, Unquoted),
        ("#set($a = \"$x[\")", 1, 11, NotAnExpression),
        ("#foreach($a.b in [1])#end", 1, 10, NotAName),
        ("#foreach($a of [1])#end", 1, 13, Expected("in")),
        ("${a", 1, 1, Unclosed("}")),
        ("$a[1", 1, 5, Expected("]")),
        ("$a.b(1", 1, 7, Expected(")")),
        ("#* a", 1, 1, Unclosed("*#")),
        ("#[[ a", 1, 1, Unclosed("]]#")),
        ("#foo(a", 1, 5, Unclosed(")")),
        ("#set($a = 999999999999999999999999999999999999999999)", 1, 11, Number),
    ] {
        let error = Template::parse(template).unwrap_err();
        assert_eq!((error.at, error.why), (Position { line, column }, why), "{template}");
    }
    let text = Template::parse("#if(true)").unwrap_err().to_string();
    assert_eq!(text, "line 1, column 5: `#end` is missing to what begins here");
    let long = Template::parse(&" ".repeat(TEMPLATE_BYTES_MAX + 1)).unwrap_err();
    assert_eq!(long.why, TooLong);
}

#[test]
fn faults_are_placed() {
    let template = Template::parse("a\n b $util.base64Decode('?')").unwrap();
    let (fields, stage_variables) = (Fields::default(), BTreeMap::new());
    let source = Source {
        body: "",
        headers: &fields,
        query: &fields,
        context: "{}",
        stage_variables: &stage_variables,
    };
    let error = template.render(&source, Dialect::default(), Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "line 2, column 4: not base64");
}
