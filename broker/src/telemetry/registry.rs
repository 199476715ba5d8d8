//! How a metric comes to be: named, described and turned into a handle in one place.
//!
//! Handles are made once, at the start: counting by a handle takes some nanoseconds, looking one up
//! by its name some sixty.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// A closed set of label values. Never an ID, never what a client wrote.
pub trait Label: Copy + 'static {
    const ALL: &'static [Self];
    fn name(self) -> &'static str;
}

/// Declares a label: an enum and the text of each of its values.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($variant:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant,)* }

        impl $crate::telemetry::registry::Label for $name {
            const ALL: &'static [$name] = &[$($name::$variant,)*];

            fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}
pub(crate) use label;

/// One handle for each value of a label.
#[derive(Clone)]
pub struct ByLabel<L, H> {
    handles: Vec<H>,
    label: std::marker::PhantomData<L>,
}

/// One family of series as documentation has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// What it is about.
    pub section: &'static str,
    pub name: &'static str,
    /// As Prometheus calls it.
    pub kind: &'static str,
    /// Each label, and its values.
    pub labels: Vec<(&'static str, Values)>,
    pub help: &'static str,
}

/// What a label may say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// One of these.
    Closed(Vec<&'static str>),
    /// A name of the configuration: what of.
    Configured(&'static str),
}

/// Makes handles and remembers what it made.
#[derive(Default)]
pub struct Registry {
    pub series: Vec<Series>,
    section: &'static str,
}

/// Renders all series of this process for Prometheus.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
}

impl<L: Label + PartialEq, H> ByLabel<L, H> {
    pub fn at(&self, label: L) -> &H {
        let index = L::ALL.iter().position(|value| *value == label);
        &self.handles[index.unwrap_or_default()]
    }
}

impl Registry {
    /// What the series are about that are made from here on.
    pub(super) fn begin(&mut self, section: &'static str) -> &mut Registry {
        self.section = section;
        self
    }

    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Counter {
        self.describe(name, "counter", Vec::new(), help);
        metrics::describe_counter!(name, help);
        metrics::counter!(name)
    }

    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge {
        self.describe(name, "gauge", Vec::new(), help);
        metrics::describe_gauge!(name, help);
        metrics::gauge!(name)
    }

    pub fn seconds(&mut self, name: &'static str, help: &'static str) -> Histogram {
        self.describe(name, "histogram", Vec::new(), help);
        metrics::describe_histogram!(name, Unit::Seconds, help);
        metrics::histogram!(name)
    }

    /// A histogram of sizes: entries, messages, bytes.
    pub fn sizes(&mut self, name: &'static str, help: &'static str) -> Histogram {
        self.describe(name, "histogram", Vec::new(), help);
        metrics::describe_histogram!(name, help);
        metrics::histogram!(name)
    }

    pub fn counters<L: Label>(
        &mut self,
        name: &'static str,
        label: &'static str,
        help: &'static str,
    ) -> ByLabel<L, Counter> {
        metrics::describe_counter!(name, help);
        self.by_label(name, "counter", label, help, |labels| metrics::counter!(name, labels))
    }

    pub fn gauges<L: Label>(
        &mut self,
        name: &'static str,
        label: &'static str,
        help: &'static str,
    ) -> ByLabel<L, Gauge> {
        metrics::describe_gauge!(name, help);
        self.by_label(name, "gauge", label, help, |labels| metrics::gauge!(name, labels))
    }

    pub fn seconds_by<L: Label>(
        &mut self,
        name: &'static str,
        label: &'static str,
        help: &'static str,
    ) -> ByLabel<L, Histogram> {
        metrics::describe_histogram!(name, Unit::Seconds, help);
        self.by_label(name, "histogram", label, help, |labels| metrics::histogram!(name, labels))
    }

    fn by_label<L: Label, H>(
        &mut self,
        name: &'static str,
        kind: &'static str,
        label: &'static str,
        help: &'static str,
        make: impl Fn(Vec<metrics::Label>) -> H,
    ) -> ByLabel<L, H> {
        let values: Vec<_> = L::ALL.iter().map(|value| value.name()).collect();
        let handles =
            values.iter().map(|value| make(vec![metrics::Label::from_static_parts(label, value)]));
        let handles = handles.collect();
        self.describe(name, kind, vec![(label, Values::Closed(values))], help);
        ByLabel { handles, label: std::marker::PhantomData }
    }

    /// Counters whose handles are made elsewhere, since some of their labels are the configuration's.
    pub(super) fn describe_counters(
        &mut self,
        name: &'static str,
        labels: Vec<(&'static str, Values)>,
        help: &'static str,
    ) {
        self.describe(name, "counter", labels, help);
        metrics::describe_counter!(name, help);
    }

    /// The same for gauges.
    pub(super) fn describe_gauges(
        &mut self,
        name: &'static str,
        labels: Vec<(&'static str, Values)>,
        help: &'static str,
    ) {
        self.describe(name, "gauge", labels, help);
        metrics::describe_gauge!(name, help);
    }

    /// The same for histograms of seconds.
    pub(super) fn describe_seconds(
        &mut self,
        name: &'static str,
        labels: Vec<(&'static str, Values)>,
        help: &'static str,
    ) {
        self.describe(name, "histogram", labels, help);
        metrics::describe_histogram!(name, Unit::Seconds, help);
    }

    fn describe(
        &mut self,
        name: &'static str,
        kind: &'static str,
        labels: Vec<(&'static str, Values)>,
        help: &'static str,
    ) {
        self.series.push(Series { section: self.section, name, kind, labels, help });
    }
}

impl Exporter {
    /// Makes this process's metrics be recorded. Before any handle is made, and once only.
    pub fn install() -> Result<Exporter, BuildError> {
        let seconds = [
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
            2.5, 5.0, 10.0, 30.0,
        ];
        let sizes = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0];
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)?
            .set_buckets(&sizes)?
            .install_recorder()?;
        metrics_process::Collector::default().describe();
        Ok(Exporter { handle })
    }

    pub fn render(&self) -> String {
        metrics_process::Collector::default().collect();
        self.handle.render()
    }

    /// Folds the samples of histograms away, which otherwise gather until the next scrape.
    pub async fn run_upkeep(self) {
        let mut interval = tokio::time::interval(Duration::from_secs(5));
        loop {
            interval.tick().await;
            self.handle.run_upkeep();
        }
    }
}
