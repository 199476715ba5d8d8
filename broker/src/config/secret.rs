//! Secrets, which a configuration only points to.

use std::path::{Path, PathBuf};

use serde_saphyr::Spanned;

use crate::config::source::{Fault, text_of};

/// Where secrets are found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secrets<'a> {
    /// Paths are relative to it.
    pub(super) folder: &'a Path,
    pub(super) environment: &'a [(String, String)],
}

impl Secrets<'_> {
    /// What a file holds, without the spaces and lines around it.
    pub(super) fn in_file(&self, key: &str, file: &Spanned<PathBuf>) -> Result<String, Fault> {
        let path = self.folder.join(&file.value);
        let fault = |rule: String| Fault::at(key, file, format!("{}: {rule}", path.display()));
        let text = text_of(&path).map_err(|error| fault(error.to_string()))?;
        match text.trim() {
            "" => Err(fault("is empty".to_owned())),
            secret => Ok(secret.to_owned()),
        }
    }

    pub(super) fn in_environment(
        &self,
        key: &str,
        variable: &Spanned<String>,
    ) -> Result<String, Fault> {
        let mut variables = self.environment.iter();
        let found = variables.find(|(name, value)| *name == variable.value && !value.is_empty());
        found.map(|(_, value)| value.clone()).ok_or_else(|| {
            let rule = format!("the environment has no variable `{}`", variable.value);
            Fault::at(key, variable, rule)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_in_files_and_in_the_environment() {
        let folder = tempfile::TempDir::new().expect("a folder can be made");
        for (name, text) in [("good", " secret\n"), ("empty", "\n")] {
            std::fs::write(folder.path().join(name), text).expect("a file can be written");
        }
        let environment = [("KEY".to_owned(), "value".to_owned()), ("NONE".into(), "".into())];
        let secrets = Secrets { folder: folder.path(), environment: &environment };
        let written = |text: &str| {
            let read: Spanned<String> = serde_saphyr::from_str(text).expect("it is a text");
            read
        };
        let in_file = |name: &str| {
            let Spanned { value, referenced, defined } = written(name);
            secrets.in_file("k", &Spanned::new(value.into(), referenced, defined)).ok()
        };
        let in_environment = |name: &str| secrets.in_environment("k", &written(name)).ok();
        assert_eq!(in_file("good").as_deref(), Some("secret"));
        assert_eq!((in_file("empty"), in_file("missing")), (None, None));
        assert_eq!(in_environment("KEY").as_deref(), Some("value"));
        assert_eq!((in_environment("NONE"), in_environment("OTHER")), (None, None));
    }
}
