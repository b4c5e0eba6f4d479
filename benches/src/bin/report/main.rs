//! Turns the figures of one run into tables: what was measured, and how xi-relay stands against
//! the bars it has set itself.

mod bars;
mod figures;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

use figures::Figures;

/// The document around the tables.
const TEMPLATE: &str = include_str!("performance.md.in");

/// Reads what `run.sh` has gathered.
#[derive(Parser)]
struct Args {
    /// One line of JSON for each measurement.
    #[arg(long)]
    results: PathBuf,
    /// Lines of `name: value` about the machine and the run.
    #[arg(long)]
    about: PathBuf,
    /// Where the document goes; without it only the tables are printed.
    #[arg(long)]
    write: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let results = fs::read_to_string(&args.results)
        .with_context(|| format!("cannot read {}", args.results.display()))?;
    let about = fs::read_to_string(&args.about)
        .with_context(|| format!("cannot read {}", args.about.display()))?;
    let figures = Figures::parse(&results)?;
    let measured = table::measured(&figures);
    let bars = bars::table(&figures);

    let mut out = std::io::stdout().lock();
    writeln!(out, "{measured}\n{bars}")?;
    if let Some(path) = &args.write {
        fs::write(path, document(&about, &measured, &bars))
            .with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(out, "written to {}", path.display())?;
    }
    Ok(())
}

fn document(about: &str, measured: &str, bars: &str) -> String {
    let about: BTreeMap<&str, &str> = about
        .lines()
        .filter_map(|line| line.split_once(": "))
        .collect();
    let mut document = TEMPLATE
        .replace("{{measured}}", measured.trim_end())
        .replace("{{bars}}", bars.trim_end());
    for (name, value) in about {
        document = document.replace(&format!("{{{{{name}}}}}"), value);
    }
    document
}
