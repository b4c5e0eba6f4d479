//! `xi-relay usage`: who used what, as a table, CSV or JSON.

use std::io::Write;

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};

use crate::ids::ClientId;
use crate::usage::{Config, Day, GroupBy, Query, UsageRow, open_reader};

#[derive(Debug, Args)]
pub(super) struct UsageArguments {
    /// The first day, YYYY-MM-DD in UTC
    #[arg(long, value_name = "DAY")]
    since: Option<Day>,
    /// The first day that is no longer shown
    #[arg(long, value_name = "DAY")]
    until: Option<Day>,
    /// Only this client
    #[arg(long, value_parser = ClientId::parse)]
    client: Option<ClientId>,
    /// What rows are kept apart by: client, day, model, voice, separated by commas
    #[arg(long, default_value = "client,day,model,voice")]
    by: GroupBy,
    /// How the rows are written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// One column: its name and a row's cell.
type Column = (&'static str, fn(&UsageRow) -> String);

/// Reads the store beside a relay that may be running, and prints what it holds.
///
/// # Errors
/// A store that cannot be read, or an output that is closed.
pub(super) fn print(
    arguments: &UsageArguments,
    config: &Config,
    out: &mut dyn Write,
) -> Result<()> {
    let query = Query {
        since: arguments.since,
        until: arguments.until,
        client: arguments.client.clone(),
        by: arguments.by,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let rows = runtime.block_on(async {
        let reader = open_reader(config)
            .await
            .map_err(|error| anyhow!("{error}"))?;
        reader
            .usage(&query)
            .await
            .map_err(|error| anyhow!("cannot read the usage store: {error}"))
    })?;
    write_rows(&rows, arguments, out).context("cannot print the rows")
}

fn write_rows(rows: &[UsageRow], arguments: &UsageArguments, out: &mut dyn Write) -> Result<()> {
    if matches!(arguments.format, Format::Json) {
        serde_json::to_writer_pretty(&mut *out, rows)?;
        writeln!(out)?;
        return Ok(());
    }
    let columns = columns(arguments.by);
    let head: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let cells = rows
        .iter()
        .map(|row| columns.iter().map(|(_, cell)| cell(row)).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(cells).collect();
    match arguments.format {
        Format::Csv => lines.iter().try_for_each(|line| {
            let line: Vec<String> = line.iter().map(|cell| quoted(cell)).collect();
            writeln!(out, "{}", line.join(","))
        })?,
        _ => write_table(&lines, out)?,
    }
    Ok(())
}

fn columns(by: GroupBy) -> Vec<Column> {
    let mut columns: Vec<Column> = vec![("client", |row| row.client.clone())];
    if by.day {
        columns.push(("day", |row| {
            row.day.map(|day| day.to_string()).unwrap_or_default()
        }));
    }
    if by.model {
        columns.push(("model", |row| row.model.clone().unwrap_or_default()));
    }
    if by.voice {
        columns.push(("voice", |row| row.voice.clone().unwrap_or_default()));
    }
    let counts: [Column; 8] = [
        ("sessions", |row| row.sessions.to_string()),
        ("live", |row| row.live.to_string()),
        ("lost", |row| row.lost.to_string()),
        ("refused", |row| row.refused.to_string()),
        ("characters", |row| row.characters.to_string()),
        ("characters_refused", |row| {
            row.characters_refused.to_string()
        }),
        ("credits", |row| format!("{:.1}", row.credits)),
        ("audio_seconds", |row| format!("{:.1}", row.audio_seconds)),
    ];
    columns.extend(counts);
    columns
}

/// Text to the left, numbers to the right.
fn write_table(lines: &[Vec<String>], out: &mut dyn Write) -> Result<()> {
    let n_columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..n_columns)
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let n_text = n_columns.saturating_sub(8);
    for line in lines {
        let cells =
            line.iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| match column < n_text {
                    true => format!("{cell:<width$}"),
                    false => format!("{cell:>width$}"),
                });
        let cells: Vec<String> = cells.collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// A CSV field (RFC 4180). A cell that a spreadsheet would take for a formula is made text.
fn quoted(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@']);
    let cell = if is_formula {
        format!("'{cell}")
    } else {
        cell.to_owned()
    };
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    }
}
