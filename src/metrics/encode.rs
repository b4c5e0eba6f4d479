//! The Prometheus text format, version 0.0.4: a family is a `HELP` line, a `TYPE` line, samples.

use std::fmt::{Display, Write};

/// What every name of ours begins with.
const PREFIX: &str = "xi_relay_";

/// The kind of a metric as its `TYPE` line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, in seconds or bytes.
    Histogram,
}

/// Writes one page of metrics.
#[derive(Debug, Default)]
pub struct Encoder {
    out: String,
}

impl Encoder {
    /// Begins a family named `xi_relay_` and `name`; every name once a page.
    pub fn family(&mut self, kind: Kind, name: &str, help: &str) -> Samples<'_> {
        self.begin(kind, format!("{PREFIX}{name}"), help)
    }

    /// Begins a family whose name is the same for every program, such as `process_open_fds`.
    pub(super) fn common(&mut self, kind: Kind, name: &str, help: &str) -> Samples<'_> {
        self.begin(kind, name.to_owned(), help)
    }

    fn begin(&mut self, kind: Kind, name: String, help: &str) -> Samples<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.out.push_str("# HELP ");
        self.out.push_str(&name);
        self.out.push(' ');
        push_escaped(&mut self.out, help, false);
        self.out.push_str("\n# TYPE ");
        self.out.push_str(&name);
        self.out.push(' ');
        self.out.push_str(kind);
        self.out.push('\n');
        Samples {
            out: &mut self.out,
            name,
        }
    }

    /// The page.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }
}

/// The samples of one family.
#[derive(Debug)]
pub struct Samples<'a> {
    out: &'a mut String,
    name: String,
}

impl Samples<'_> {
    /// One value of a counter or gauge; each set of labels once a family.
    pub fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.sample("", labels, None, value);
    }

    /// One histogram: the upper bound and cumulative count of every bucket, the last bound
    /// infinite, and the sum of what was observed.
    pub fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        cumulative: impl IntoIterator<Item = (f64, u64)>,
        sum: f64,
    ) {
        let mut count = 0;
        for (bound, below) in cumulative {
            self.sample("_bucket", labels, Some(bound), below);
            count = below;
        }
        self.sample("_sum", labels, None, sum);
        self.sample("_count", labels, None, count);
    }

    fn sample(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        bound: Option<f64>,
        value: impl Display,
    ) {
        self.out.push_str(&self.name);
        self.out.push_str(suffix);
        let bound = bound.map(|bound| match bound {
            f64::INFINITY => "+Inf".to_owned(),
            finite => finite.to_string(),
        });
        let bound = bound.as_deref().map(|bound| ("le", bound));
        let mut open = '{';
        for (label, text) in labels.iter().copied().chain(bound) {
            self.out.push(open);
            self.out.push_str(label);
            self.out.push_str("=\"");
            push_escaped(self.out, text, true);
            self.out.push('"');
            open = ',';
        }
        if open == ',' {
            self.out.push('}');
        }
        // A `String` takes whatever is written to it.
        let _ = writeln!(self.out, " {value}");
    }
}

/// Backslash and newline are escaped everywhere, the quote only in a label's value.
fn push_escaped(out: &mut String, text: &str, quote: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quote => out.push_str("\\\""),
            _ => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_in_the_text_format() {
        let mut page = Encoder::default();
        page.family(Kind::Counter, "things_total", "Things \\ of\ntwo lines.")
            .value(&[("name", "a\"b\\c\nd"), ("kind", "x")], 7u64);
        page.family(Kind::Gauge, "level", "A level.")
            .value(&[], 0.5);
        page.family(Kind::Histogram, "wait_seconds", "A wait.")
            .histogram(
                &[("of", "x")],
                [(0.000_005, 1), (1.0, 3), (f64::INFINITY, 4)],
                2.5,
            );
        let expected = r#"# HELP xi_relay_things_total Things \\ of\ntwo lines.
# TYPE xi_relay_things_total counter
xi_relay_things_total{name="a\"b\\c\nd",kind="x"} 7
# HELP xi_relay_level A level.
# TYPE xi_relay_level gauge
xi_relay_level 0.5
# HELP xi_relay_wait_seconds A wait.
# TYPE xi_relay_wait_seconds histogram
xi_relay_wait_seconds_bucket{of="x",le="0.000005"} 1
xi_relay_wait_seconds_bucket{of="x",le="1"} 3
xi_relay_wait_seconds_bucket{of="x",le="+Inf"} 4
xi_relay_wait_seconds_sum{of="x"} 2.5
xi_relay_wait_seconds_count{of="x"} 4
"#;
        assert_eq!(page.finish(), expected);
    }
}
