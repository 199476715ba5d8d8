//! Where a stage's access log goes, and what its lines say.

use std::path::{Path, PathBuf};

use posthorn_core::access_log::Format;
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::source::Fault;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogSettings {
    /// None is standard output.
    pub file: Option<PathBuf>,
    pub format: Format,
}

/// A line for each handshake, message, end of a connection, and call of the `@connections` API.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenAccessLog {
    /// `stdout`, or a file, relative to the configuration. A file that was renamed is made anew.
    destination: Spanned<PathBuf>,
    /// A line, or JSON, with `$context` variables.
    format: Spanned<String>,
}

impl WrittenAccessLog {
    pub(super) fn believe(&self, place: &str, folder: &Path) -> Result<AccessLogSettings, Fault> {
        let format = Format::parse(&self.format.value).map_err(|error| {
            Fault::at(format!("{place}.format"), &self.format, error.to_string())
        })?;
        let destination = &self.destination.value;
        if destination == Path::new("stdout") {
            return Ok(AccessLogSettings { file: None, format });
        }
        let file = folder.join(destination);
        let is_in_folder =
            file.parent().is_none_or(|parent| parent.as_os_str().is_empty() || parent.is_dir());
        if !is_in_folder || file.is_dir() {
            let rule = format!("`{}` is no file in a folder that there is", file.display());
            return Err(Fault::at(format!("{place}.destination"), &self.destination, rule));
        }
        Ok(AccessLogSettings { file: Some(file), format })
    }
}
