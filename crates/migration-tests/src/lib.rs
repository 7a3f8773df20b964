//! Real parts for tests: private servers that the project's own scripts start, and the tools' real binaries.
//!
//! Used by the suite that operators run and by every test under tests/.

pub mod backups;
pub mod bouncer;
pub mod lab;
pub mod program;
pub mod server;
