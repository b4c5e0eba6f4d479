//! The tables, and how a file of an older version becomes one of this version.

use rusqlite::Connection;

/// Step `n` takes a file from version `n` to `n + 1`; `PRAGMA user_version` holds the version.
/// Steps are never changed once released, only followed by others.
const MIGRATIONS: [&str; 4] = [
    include_str!("v1.sql"),
    include_str!("v2.sql"),
    include_str!("v3.sql"),
    include_str!("v4.sql"),
];

/// The version this program writes.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// Why a file cannot be brought to this version.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    /// A newer program wrote it.
    #[error("the file has schema version {0}, this program knows {VERSION}")]
    Newer(usize),
    /// SQLite says no.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// The version of a file.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<usize> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Applies the steps that are missing, all of them or none.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), SchemaError> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version = version(&transaction)?;
    if version > VERSION {
        return Err(SchemaError::Newer(version));
    }
    for step in &MIGRATIONS[version..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(())
}
