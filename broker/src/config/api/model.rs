//! Models, and which messages must fit which, as written and as believed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use posthorn_core::mapping::templates::TemplateTable;
use posthorn_core::model::{Model, ModelError, RequestModels};
use posthorn_core::route::expression::{Expression, Purpose};
use posthorn_core::route::table::RouteKey;
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::config::source::{Fault, text_of};

const NAME_BYTES_MAX: usize = 128;

/// A model by its name: 1 to 128 of A-Z, a-z and 0-9.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenModel {
    /// JSON Schema, draft 4: as YAML, or as a text that is JSON.
    schema: Option<Spanned<Value>>,
    /// Or a file that holds it, relative to this one.
    schema_file: Option<Spanned<PathBuf>>,
    /// Messages have none: there is only one value.
    content_type: Option<Spanned<String>>,
    /// For people.
    #[serde(rename = "description")]
    _description: Option<String>,
}

/// The models of an API, by name. `is_lenient` is its `disable_schema_validation`.
pub(super) fn believe(
    written: &BTreeMap<String, Spanned<WrittenModel>>,
    folder: &Path,
    is_lenient: bool,
) -> Result<BTreeMap<String, Model>, Fault> {
    let believe = |(name, model): (&String, &Spanned<WrittenModel>)| {
        let place = format!("models.{name}");
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_name {
            let rule = "a model's name is 1 to 128 of A-Z, a-z and 0-9";
            return Err(Fault::at(place, model, rule));
        }
        let (key, schema) = model.value.schema(&place, model, folder)?;
        match Model::compile(&schema) {
            Ok(compiled) => Ok((name.clone(), compiled)),
            Err(ModelError::Schema { .. }) if is_lenient => Ok((name.clone(), Model::UNUSABLE)),
            Err(error) => Err(Fault::at(key, model, error.to_string())),
        }
    };
    written.iter().map(believe).collect()
}

impl WrittenModel {
    /// The schema, and the key where it was found.
    fn schema(
        &self,
        place: &str,
        whole: &Spanned<WrittenModel>,
        folder: &Path,
    ) -> Result<(String, Value), Fault> {
        let WrittenModel { schema, schema_file, content_type, .. } = self;
        if let Some(written) = content_type.as_ref().filter(|kind| kind.value != JSON) {
            let key = format!("{place}.content_type");
            return Err(Fault::at(key, written, format!("the only value is {JSON}")));
        }
        match (schema, schema_file) {
            (Some(written), None) => {
                let key = format!("{place}.schema");
                let schema = match &written.value {
                    Value::String(text) => serde_json::from_str(text)
                        .map_err(|error| Fault::at(&*key, written, format!("{error}")))?,
                    schema => schema.clone(),
                };
                Ok((key, schema))
            }
            (None, Some(file)) => {
                let key = format!("{place}.schema_file");
                let path = folder.join(&file.value);
                let schema = read(&path)
                    .map_err(|why| Fault::at(&*key, file, format!("{}: {why}", path.display())))?;
                Ok((key, schema))
            }
            (Some(_), Some(_)) | (None, None) => {
                let rule = "a model has a schema or a schema_file, and not both";
                Err(Fault::at(place, whole, rule))
            }
        }
    }
}

const JSON: &str = "application/json";

/// YAML, unless its name says JSON: that allows tabs where YAML does not.
fn read(path: &Path) -> Result<Value, String> {
    let text = text_of(path).map_err(|error| error.to_string())?;
    match path.extension().is_some_and(|extension| extension == "json") {
        true => serde_json::from_str(&text).map_err(|error| error.to_string()),
        false => serde_saphyr::from_str(&text).map_err(|error| error.to_string()),
    }
}

/// What the messages of a route must fit, if anything.
pub(super) fn of_route(
    place: &str,
    route: &str,
    expression: Option<&Spanned<String>>,
    names: &BTreeMap<Box<str>, Spanned<String>>,
    models: &BTreeMap<String, Model>,
) -> Result<Option<RequestModels>, Fault> {
    let (key, names_key) =
        (format!("{place}.model_selection_expression"), format!("{place}.request_models"));
    let expression = match expression {
        Some(written) if names.is_empty() => {
            return Err(Fault::at(key, written, "there are no request_models to select from"));
        }
        Some(written) => {
            let parsed = Expression::parse(&written.value, Purpose::Model);
            Some(parsed.map_err(|error| Fault::at(key, written, error.to_string()))?)
        }
        None => None,
    };
    let Some((first, name)) = names.first_key_value() else { return Ok(None) };
    if matches!(route, RouteKey::CONNECT | RouteKey::DISCONNECT) {
        let rule = "no message comes on this route that could fit a model";
        return Err(Fault::at(format!("{names_key}.{first}"), name, rule));
    }
    if expression.is_none() && !names.contains_key(RouteKey::DEFAULT) {
        let rule = "without a model_selection_expression, only $default is ever selected";
        return Err(Fault::at(format!("{names_key}.{first}"), name, rule));
    }
    let table = names.iter().map(|(key, name)| match models.get(&name.value) {
        Some(model) => Ok((key.clone(), model.clone())),
        None => {
            let rule = format!("`{}` is no key of models", name.value);
            Err(Fault::at(format!("{names_key}.{key}"), name, rule))
        }
    });
    let table = table.collect::<Result<BTreeMap<_, _>, Fault>>()?;
    Ok(Some(RequestModels(TemplateTable::new(expression, table))))
}
