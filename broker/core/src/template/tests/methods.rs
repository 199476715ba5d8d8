use super::*;

#[test]
fn texts_have_the_methods_of_java() {
    check(&[
        (
            "#set($s = 'Something')$s.length() $s.isEmpty() $s.charAt(0) $s.substring(4) $s.substring(3, 6)",
            "9 false S thing eth",
        ),
        (
            "#set($s = 'abcabc')$s.indexOf('c') $s.indexOf('c', 3) $s.lastIndexOf('c') $s.indexOf('x')",
            "2 5 5 -1",
        ),
        (
            "#set($s = 'abc')$s.contains('b') $s.startsWith('ab') $s.startsWith('bc', 1) $s.endsWith('b')",
            "true true true false",
        ),
        ("#set($s = ' aB ')$s.trim().toLowerCase()$s.toUpperCase().trim()$s.strip()", "abABaB"),
        (
            "#set($s = 'a')$s.equals('a') $s.equals(1) $s.equalsIgnoreCase('A') $s.compareTo('b')",
            "true false true -1",
        ),
        (
            "#set($s = 'a.b.c')$s.replace('.', '$') $s.replaceAll('.', 'x') $s.replaceFirst('\\.', '')",
            "a$b$c xxxxx ab.c",
        ),
        (
            "#set($s = 'john doe')$s.replaceAll('(\\w+) (?<last>\\w+)', '${last}, $1 \\$1')",
            "doe, john $1",
        ),
        ("#set($s = 'abc')$s.concat('d')$s.toString()$s.repeat(2)", "abcdabcabcabc"),
        (
            "#set($s = '123')$s.matches('[0-9]*') $s.matches('[0-9]') $s.matches('1|123')",
            "true false true",
        ),
        ("#set($s = 'it\\''s')$util.escapeJavaScript($s).replaceAll(\"\\\\'\",\"'\")", "it\\\\'s"),
        ("#set($s = '😀é')$s.length() $s.substring(2) $s.indexOf('é')", "3 é 2"),
        ("#set($s = 'abc')|$s.nothing()|$s.substring('a')|", "|||"),
    ]);
}

#[test]
fn texts_are_split_as_java_splits_them() {
    for (text, split) in [
        ("'a,b,,c,,'.split(',')", "[a, b, , c]"),
        ("'a,b,,c,,'.split(',', -1)", "[a, b, , c, , ]"),
        ("'a,b,c'.split(',', 2)", "[a, b,c]"),
        ("',a'.split(',')", "[, a]"),
        ("'abc'.split('')", "[a, b, c]"),
        ("''.split(',')", "[]"),
        ("'a1b22c'.split('[0-9]+')", "[a, b, c]"),
        ("'a|b'.split('\\|')", "[a, b]"),
    ] {
        let (text, call) = text.rsplit_once(".split").unwrap();
        assert_eq!(render(&format!("#set($s = {text})$s.split{call}")), split, "{text}{call}");
    }
}

#[test]
fn lists_have_the_methods_of_java() {
    check(&[
        (
            "#set($l = [1, 2, 3])$l.size() $l.get(1) $l[2] $l.isEmpty() $l.contains(1) $l.contains('1')",
            "3 2 3 false true false",
        ),
        (
            "#set($l = ['a', 'b'])$l.add('c') $l.set(0, 'z') $l.indexOf('c') $l.lastIndexOf('x') $l",
            "true a 2 -1 [z, b, c]",
        ),
        ("#set($l = ['a', 'b'])$l.remove(0)$l.remove('b')$l.remove('b') $l", "atruefalse []"),
        (
            "#set($l = [1])$l.addAll([2, 3]) $l.addAll($l) $l.add(0, 9)$l",
            "true true [9, 1, 2, 3, 1, 2, 3]",
        ),
        (
            "#set($l = [1..5])$l.subList(1, 3) $l.containsAll([5, 1]) $l.equals([1..5]) $l.clear()$l.empty",
            "[2, 3] true true true",
        ),
    ]);
}

#[test]
fn maps_have_the_methods_of_java_and_keep_their_order() {
    check(&[
        (
            "#set($m = {'z': 1, 'a': 2})$m.size() $m.get('z') $m.a $m.keySet() $m.values() $m.entrySet()",
            "2 1 2 [z, a] [1, 2] [z=1, a=2]",
        ),
        (
            "#set($m = {'k': 1})$m.put('k', 2) $m.put('l', 3)$m.putAll({'m': 4, 'k': 5})$m",
            "1 {k=5, l=3, m=4}",
        ),
        (
            "#set($m = {'k': 1})$m.containsKey('k') $m.containsKey('x') $m.containsValue(1) $m.remove('k')$m.remove('k') $m.isEmpty()",
            "true false true 1 true",
        ),
        (
            "#set($m = {'k': 1})$m.getOrDefault('x', 7) $m.putIfAbsent('k', 3) $m.toString()",
            "7 1 {k=1}",
        ),
        (
            "#set($m = {'a': 1, 'b': 2})#foreach($e in $m.entrySet())$e.key:$e.getValue()$e.value #end",
            "a:11 b:22 ",
        ),
        ("#set($m = {})$m.put('k', null)#if(\"$m.k\" == '')none#end $m", "none {k=null}"),
        (
            "#set($m = {'a': 1})#set($v = $m.remove('a'))#set($v = $m.put('b', 1))#set($v = $m.put('a', 1))$m",
            "{b=1, a=1}",
        ),
    ]);
}

#[test]
fn numbers_parse_texts() {
    check(&[
        ("#set($n = 0)$n.parseInt('12') $n.valueOf('1.5') $n.parseInt('x')|", "12 1.5 |"),
        (
            "#set($n = 2.9)$n.intValue() $n.toString().length() $n.equals(2.9) $n.compareTo(3)",
            "2 3 true -1",
        ),
    ]);
}

#[test]
fn a_place_that_is_not_there_is_a_fault() {
    let out_of_range = |index, length| RenderFault::OutOfRange { index, length };
    assert_eq!(fault("#set($l = [1])$l[1]"), out_of_range(1, 1));
    assert_eq!(fault("#set($l = [1])$l.get(-1)"), out_of_range(-1, 1));
    assert_eq!(fault("#set($l = [1])#set($l[2] = 3)"), out_of_range(2, 1));
    assert_eq!(fault("#set($s = 'ab')$s.substring(3)"), out_of_range(3, 2));
    assert_eq!(fault("#set($s = 'ab')$s.substring(2, 1)"), out_of_range(2, 2));
    assert_eq!(fault("#set($l = [1])$l.subList(1, 0)"), out_of_range(1, 1));
}

#[test]
fn what_cannot_be_set_is_a_fault() {
    assert_eq!(fault("#set($x.y = 1)"), RenderFault::NotAssignable);
    assert_eq!(fault("#set($x = 'a')#set($x[0] = 1)"), RenderFault::NotAssignable);
    assert_eq!(fault("#set($x = {})#set($x.size() = 1)"), RenderFault::NotAssignable);
}

#[test]
fn a_pattern_that_is_none_is_a_fault() {
    for pattern in ["(", "(?=a)", "(a)\\1", "a{999999}", "a)(b"] {
        let fault = fault(&format!("#set($s = 'a')$s.matches('{pattern}')"));
        assert!(matches!(fault, RenderFault::Pattern(_)), "{pattern}: {fault:?}");
    }
}
