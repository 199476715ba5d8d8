//! Whose connection a request of the `@connections` API is about: `{prefix}/@connections/{id}`.
//!
//! AWS's SDKs write the same path as `/prod/@connections/AbC%3D` or `/prod/%40connections/AbC%3D`.
//! Each step is decoded once, after the path was cut into steps: an encoded slash cuts nothing.

use percent_encoding::percent_decode_str;

const CONNECTIONS: &str = "@connections";

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// As a client would connect to: `/{stage}`, `/{api}/{stage}`, or what is mapped to one.
    pub(super) prefix: String,
    /// Not judged yet.
    pub(super) id: String,
}

impl Target {
    /// One slash at the end is tolerated, as API Gateway does.
    pub(super) fn parse(path: &str) -> Option<Target> {
        let path = path.strip_prefix('/')?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let steps: Vec<_> =
            path.split('/').map(|step| percent_decode_str(step).decode_utf8_lossy()).collect();
        let [prefix @ .., connections, id] = &*steps else { return None };
        let is_step = |step: &str| !step.is_empty() && !step.contains('/');
        if *connections != CONNECTIONS || id.is_empty() || !prefix.iter().all(|step| is_step(step))
        {
            return None;
        }
        Some(Target { prefix: format!("/{}", prefix.join("/")), id: id.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_sdks_are_the_same_path() {
        for path in [
            "/prod/@connections/AbC-_",
            "/prod/%40connections/AbC-_",
            "/prod/%40connections/AbC%2D%5f",
            "/pr%6Fd/@connections/AbC-_/",
        ] {
            assert_eq!(Target::parse(path), target("/prod", "AbC-_"), "{path}");
        }
        assert_eq!(Target::parse("/chat/prod/@connections/A%3D"), target("/chat/prod", "A="));
        assert_eq!(Target::parse("/@connections/A"), target("/", "A"));
    }

    #[test]
    fn a_path_is_decoded_once() {
        assert_eq!(Target::parse("/prod/%2540connections/A"), None);
        assert_eq!(Target::parse("/prod/@connections/A%253D"), target("/prod", "A%3D"));
        assert_eq!(Target::parse("/prod/@connections/A%2FB"), target("/prod", "A/B"));
        assert_eq!(Target::parse("/chat%2Fprod/@connections/A"), None);
        assert_eq!(Target::parse("/prod/@connections/%zz%FF"), target("/prod", "%zz\u{fffd}"));
    }

    #[test]
    fn other_paths_are_none() {
        for path in [
            "",
            "/",
            "/prod",
            "/prod/@connections",
            "/prod/@connections/",
            "/prod//@connections/A",
            "/prod/@connections/A//",
            "/prod/@connection/A",
            "/prod/@connections/A/B",
            "*",
        ] {
            assert_eq!(Target::parse(path), None, "{path}");
        }
    }

    fn target(prefix: &str, id: &str) -> Option<Target> {
        Some(Target { prefix: prefix.to_owned(), id: id.to_owned() })
    }
}
