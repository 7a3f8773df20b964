//! Everything that talks to the server but TimescaleDB's own catalog: connections, sessions, the locks, the ledger.

pub mod backend;
pub mod client;
pub mod clients;
pub mod connect;
pub mod ledger;
pub mod lock;
pub mod name_lock;
pub mod pooler;
pub mod server_error;
pub mod session;
