//! verified.json: what `verify --deep` has proven, sealed, so that a changed byte shows.

use std::path::Path;

use serde_json::{Value, json};

use super::checksums::hex_of;
use super::{metadata, read_text, write_whole};

/// The file's name.
pub(crate) const FILE: &str = "verified.json";

/// What was proven, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// RFC 3339, UTC.
    pub(crate) verified_at: String,
    pub(crate) by: String,
    /// PostgreSQL of the server that it was restored on.
    pub(crate) server: String,
    pub(crate) tables: u64,
    pub(crate) rows: u64,
}

/// How a backup stands with its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Never restored.
    None,
    /// Restored and compared.
    Proven(Proof),
    /// There is a file, and it is not what was written for this backup.
    Damaged(String),
}

fn body(proof: &Proof, metadata_sum: &str, seal: &str) -> String {
    let fields = [
        ("verified_at", json!(proof.verified_at)),
        ("verified_by", json!(proof.by)),
        ("postgresql", json!(proof.server)),
        ("tables", json!(proof.tables)),
        ("rows", json!(proof.rows)),
        ("metadata", json!(format!("sha256:{metadata_sum}"))),
        ("seal", json!(seal)),
    ];
    let lines: Vec<String> = fields.iter().map(|(key, value)| format!("    \"{key}\": {value}")).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

fn render(proof: &Proof, metadata_sum: &str) -> String {
    body(proof, metadata_sum, &hex_of(body(proof, metadata_sum, "").as_bytes()))
}

/// Writes it beside the backup's files.
///
/// # Errors
/// The system's.
pub(crate) fn write(folder: &Path, proof: &Proof) -> std::io::Result<()> {
    let metadata = std::fs::read(folder.join(metadata::FILE))?;
    write_whole(&folder.join(FILE), &render(proof, &hex_of(&metadata)), 0o600)
}

/// Reads it.
pub(crate) fn read(folder: &Path) -> Standing {
    let path = folder.join(FILE);
    if !path.exists() {
        return Standing::None;
    }
    let (Ok(text), Ok(metadata)) = (read_text(&path), std::fs::read(folder.join(metadata::FILE))) else {
        return Standing::Damaged("it cannot be read".to_owned());
    };
    judge(&text, &metadata)
}

/// How a backup with this metadata.json stands with the text of a proof.
pub(crate) fn judge(text: &str, metadata: &[u8]) -> Standing {
    let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let words = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let number = |key: &str| value.get(key).and_then(Value::as_u64);
    let proof = (|| {
        Some(Proof {
            verified_at: words("verified_at")?,
            by: words("verified_by")?,
            server: words("postgresql")?,
            tables: number("tables")?,
            rows: number("rows")?,
        })
    })();
    match proof {
        Some(proof) if render(&proof, &hex_of(metadata)) == text => Standing::Proven(proof),
        _ => Standing::Damaged("it is not what was written for this backup".to_owned()),
    }
}
