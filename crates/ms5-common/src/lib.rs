//! What the five MS5.0 migration tools share, in reading order.
//!
//! Arrows run down this list only: a module uses those above it (`db` and what follows use `config`, never the
//! other way), `sql` does no I/O, and nothing here knows a tool.

pub mod backups;
pub mod called;
pub mod catalog;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod effects;
pub mod error;
pub mod exit;
pub mod expected;
pub mod fingerprint;
pub mod gate;
pub mod interrupt;
pub mod logging;
pub mod machine;
pub mod migrations;
pub mod progress;
pub mod record;
pub mod report;
pub mod rollback_points;
pub mod sibling;
pub mod sql;
pub mod timescale;
pub mod tool;
pub mod troubleshooting;
pub mod whole_file;
