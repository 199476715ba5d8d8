//! Where in a file the value of a key stands, for faults that do not know it themselves.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// What a file says, as far as keys lead through it.
enum Tree {
    Map(BTreeMap<String, Spanned<Tree>>),
    List(Vec<Spanned<Tree>>),
    Leaf,
}

/// Line and column of a value, or of the innermost one around where it would be. None where not even
/// the first step of the key is there.
pub(super) fn place_of(text: &str, key: &str) -> Option<(u64, u64)> {
    let tree: Tree = serde_saphyr::from_str(text).ok()?;
    let (mut tree, mut rest, mut place) = (&tree, key, None);
    while let Some((inner, behind)) = tree.step(rest) {
        place = Some((inner.referenced.line(), inner.referenced.column()));
        (tree, rest) = (&inner.value, behind);
    }
    place
}

impl Tree {
    /// What the key begins with, and the rest of it. Names may have dots in them: the longest counts.
    fn step<'t, 'k>(&'t self, key: &'k str) -> Option<(&'t Spanned<Tree>, &'k str)> {
        match self {
            Tree::Map(map) => {
                let fitting = map.iter().filter_map(|(name, inner)| {
                    let rest = key.strip_prefix(&**name)?;
                    let is_whole = rest.is_empty() || rest.starts_with(['.', '[']);
                    is_whole.then_some((name, inner, rest))
                });
                let (_, inner, rest) = fitting.max_by_key(|(name, ..)| name.len())?;
                Some((inner, rest.strip_prefix('.').unwrap_or(rest)))
            }
            Tree::List(list) => {
                let (index, rest) = key.strip_prefix('[')?.split_once(']')?;
                let inner = list.get(index.parse::<usize>().ok()?)?;
                Some((inner, rest.strip_prefix('.').unwrap_or(rest)))
            }
            Tree::Leaf => None,
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((name, value)) = access.next_entry()? {
            map.insert(name, value);
        }
        Ok(Tree::Map(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element()? {
            list.push(value);
        }
        Ok(Tree::List(list))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_keys() {
        let text = "cluster:\n  lease_ms: 3\n  voters:\n    - { id: 0 }\n    - { id: 7, at: x }\n\
            apis:\n  a.b:\n    routes: { x: 1 }\n  a: ~\n";
        for (key, expected) in [
            ("cluster", Some((2, 3))),
            ("cluster.lease_ms", Some((2, 13))),
            ("cluster.voters[1].id", Some((5, 13))),
            ("cluster.voters[9].id", Some((4, 5))),
            ("cluster.patience_ms", Some((2, 3))),
            ("apis.a.b.routes.x", Some((8, 18))),
            ("apis.a", Some((9, 6))),
            ("api", None),
            ("", None),
        ] {
            assert_eq!(place_of(text, key), expected, "{key}");
        }
        assert_eq!(place_of("[", "a"), None);
    }
}
