//! Templates, parameters and responses of integrations, as written.

use std::collections::BTreeMap;
use std::sync::Arc;

use posthorn_core::mapping::content::ContentHandling;
use posthorn_core::mapping::custom::{CustomMapping, RequestMapping, ResponseMapping};
use posthorn_core::mapping::parameters::{RequestParameters, ResponseParameters};
use posthorn_core::mapping::responses::{ResponseKey, ResponseTable};
use posthorn_core::mapping::templates::{Passthrough, TemplateTable};
use posthorn_core::route::expression::{Expression, Purpose};
use posthorn_core::template::Template;
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::source::Fault;

pub(super) type Texts = BTreeMap<Box<str>, Spanned<String>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Setting)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum PassthroughBehavior {
    /// They are passed on as they are. So it is where the key is missing.
    WhenNoMatch,
    /// They are passed on as they are if there are no templates at all.
    WhenNoTemplates,
    /// They are refused.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Setting)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum ContentHandlingStrategy {
    /// From base64.
    ConvertToBinary,
    /// To base64.
    ConvertToText,
}

/// What an integration is sent.
#[derive(Debug)]
pub(super) struct WrittenRequest<'a> {
    pub templates: &'a Texts,
    pub selection: Option<&'a Spanned<String>>,
    pub parameters: &'a Texts,
    pub passthrough: Option<PassthroughBehavior>,
    pub content_handling: Option<ContentHandlingStrategy>,
}

/// What a client is told of an integration's answer, where that has this response's key.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenResponse {
    /// By what `template_selection_expression` comes to; `$default` otherwise.
    #[serde(default)]
    response_templates: Texts,
    /// `route.response.header.NAME`, seen where a handshake is answered.
    #[serde(default)]
    response_parameters: Texts,
    /// As `route_selection_expression`: which of the templates the answer takes.
    template_selection_expression: Option<Spanned<String>>,
    /// What the answer is turned into on its way to the client. As it is where it is missing.
    content_handling_strategy: Option<ContentHandlingStrategy>,
}

/// `by` says what of an answer is compared with the keys of `responses`.
pub(super) fn believe(
    place: &str,
    request: &WrittenRequest<'_>,
    responses: &BTreeMap<String, Spanned<WrittenResponse>>,
    by: &'static str,
) -> Result<CustomMapping, Fault> {
    let request = request.believe(place)?;
    if responses.is_empty() {
        return Ok(CustomMapping { request, responses: None });
    }
    let responses = responses
        .iter()
        .map(|(text, response)| {
            let place = format!("{place}.integration_responses.{text}");
            let key: ResponseKey =
                text.parse().map_err(|error| Fault::at(&*place, response, format!("{error}")))?;
            Ok((key, response.value.believe(&place)?))
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    let by = Expression::parse(by, Purpose::IntegrationResponse);
    let by = by.map_err(|error| Fault::new(place, error.to_string()))?;
    Ok(CustomMapping { request, responses: Some(ResponseTable::new(by, responses)) })
}

impl WrittenRequest<'_> {
    fn believe(&self, place: &str) -> Result<RequestMapping, Fault> {
        let WrittenRequest { templates, selection, parameters, passthrough, content_handling } =
            *self;
        let pairs = parameters.iter().map(|(key, value)| (&**key, &*value.value));
        let parameters = RequestParameters::parse(pairs).map_err(|error| {
            fault_of_pair(
                &format!("{place}.request_parameters"),
                parameters,
                &error.key,
                &error.why,
            )
        })?;
        Ok(RequestMapping {
            templates: table(place, "request_templates", templates, selection)?,
            passthrough: passthrough.map_or_else(Passthrough::default, Passthrough::from),
            parameters: Arc::new(parameters),
            content_handling: content_handling.map(ContentHandling::from),
        })
    }
}

impl WrittenResponse {
    fn believe(&self, place: &str) -> Result<ResponseMapping, Fault> {
        let WrittenResponse {
            response_templates,
            response_parameters,
            template_selection_expression,
            content_handling_strategy,
        } = self;
        let selection = template_selection_expression.as_ref();
        let pairs = response_parameters.iter().map(|(key, value)| (&**key, &*value.value));
        let parameters = ResponseParameters::parse(pairs).map_err(|error| {
            let place = format!("{place}.response_parameters");
            fault_of_pair(&place, response_parameters, &error.key, &error.why)
        })?;
        Ok(ResponseMapping {
            templates: table(place, "response_templates", response_templates, selection)?,
            parameters,
            content_handling: content_handling_strategy.map(ContentHandling::from),
        })
    }
}

fn fault_of_pair(place: &str, pairs: &Texts, key: &str, why: &impl ToString) -> Fault {
    let (at, why) = (format!("{place}.{key}"), why.to_string());
    match pairs.get(key) {
        Some(value) => Fault::at(at, value, why),
        None => Fault::new(at, why),
    }
}

fn table(
    place: &str,
    key: &'static str,
    templates: &Texts,
    selection: Option<&Spanned<String>>,
) -> Result<TemplateTable<Template>, Fault> {
    let parsed = templates.iter().map(|(name, text)| match Template::parse(&text.value) {
        Ok(template) => Ok((name.clone(), template)),
        Err(error) => Err(Fault::at(format!("{place}.{key}.{name}"), text, error.to_string())),
    });
    let parsed = parsed.collect::<Result<BTreeMap<_, _>, Fault>>()?;
    let purpose = match key {
        "request_templates" => Purpose::RequestTemplate,
        _ => Purpose::ResponseTemplate,
    };
    let expression = selection.map(|written| {
        let key = format!("{place}.template_selection_expression");
        if templates.is_empty() {
            return Err(Fault::at(key, written, "there are no templates to select from"));
        }
        Expression::parse(&written.value, purpose)
            .map_err(|error| Fault::at(key, written, error.to_string()))
    });
    Ok(TemplateTable::new(expression.transpose()?, parsed))
}

impl From<PassthroughBehavior> for Passthrough {
    fn from(written: PassthroughBehavior) -> Passthrough {
        match written {
            PassthroughBehavior::WhenNoMatch => Passthrough::WhenNoMatch,
            PassthroughBehavior::WhenNoTemplates => Passthrough::WhenNoTemplates,
            PassthroughBehavior::Never => Passthrough::Never,
        }
    }
}

impl From<ContentHandlingStrategy> for ContentHandling {
    fn from(written: ContentHandlingStrategy) -> ContentHandling {
        match written {
            ContentHandlingStrategy::ConvertToBinary => ContentHandling::ConvertToBinary,
            ContentHandlingStrategy::ConvertToText => ContentHandling::ConvertToText,
        }
    }
}
