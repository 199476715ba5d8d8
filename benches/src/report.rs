//! The table that is printed at the end.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// What takes longer is recorded as this.
const TIME_MAX: Duration = Duration::from_secs(60);

/// One row: what was measured, what it came to, and what kept it from being better.
pub struct Figure {
    pub what: String,
    pub value: String,
    pub limit: String,
}

#[derive(Default)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Report {
    pub fn add(&mut self, figures: Vec<Figure>) {
        self.figures.extend(figures);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: fn(&Figure) -> &str| {
            self.figures.iter().map(|figure| text(figure).chars().count()).max().unwrap_or(0)
        };
        let (what_width, value_width) = (width(|figure| &figure.what), width(|f| &f.value));
        for Figure { what, value, limit } in &self.figures {
            writeln!(f, "{what:<what_width$}  {value:>value_width$}  {limit}")?;
        }
        Ok(())
    }
}

/// Times in microseconds, to one part in a hundred.
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Times {
        let histogram = Histogram::new_with_bounds(1, TIME_MAX.as_micros() as u64, 2);
        Times(histogram.expect("the bounds are in order"))
    }
}

impl Times {
    pub fn record(&mut self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(microseconds);
    }

    pub fn merge(&mut self, other: &Times) {
        self.0 += &other.0;
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        write!(f, "p50 {:.2} ms, p99 {:.2} ms", milliseconds(0.5), milliseconds(0.99))
    }
}

/// A count with its thousands set apart, as people read it.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many in a second, rounded down.
pub fn rate(number: u64, elapsed: Duration) -> String {
    format!("{} /s", count((number as f64 / elapsed.as_secs_f64()) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let figure = |what: &str, value: &str| Figure {
            what: what.to_owned(),
            value: value.to_owned(),
            limit: "CPU".to_owned(),
        };
        let mut report = Report::default();
        report.add(vec![figure("posts", "1,234 /s"), figure("a", "1 /s")]);
        assert_eq!(report.to_string(), "posts  1,234 /s  CPU\na          1 /s  CPU\n");
    }

    #[test]
    fn times_are_told_by_their_quantiles() {
        let (mut times, mut more) = (Times::default(), Times::default());
        (0..98).for_each(|_| times.record(Duration::from_micros(500)));
        more.record(Duration::from_millis(20));
        more.record(Duration::from_secs(3600));
        times.merge(&more);
        assert_eq!(times.to_string(), "p50 0.50 ms, p99 20.09 ms");
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(rate(123_456, Duration::from_secs(10)), "12,345 /s");
    }
}
