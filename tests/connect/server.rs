//! Starts private PostgreSQL servers with settings that the sandbox does not offer: their own pg_hba.conf,
//! certificates, a recovery that never ends. The programs, and the user that they run as, are the sandbox's.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use migration_tests::server::{Engine, Server as Sandbox};

/// The folder of the server's and the clients' programs.
pub(crate) fn bin() -> &'static str {
    Sandbox::shared(Engine::Pg17).variable("MS5_SANDBOX_BIN")
}

/// Where everything of the tests lies; short, for the sockets' sake. What runs that are gone left behind
/// is removed.
fn base() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let me = Command::new("id").arg("-u").output().unwrap().stdout;
        let folder = PathBuf::from(format!("/tmp/ms5-connect-{}", String::from_utf8(me).unwrap().trim()));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let pid = name.split('-').next().unwrap_or_default();
            // What has this run's number is of one that had it before.
            if pid == std::process::id().to_string() || !Path::new("/proc").join(pid).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        folder
    })
}

/// What the server is to be like.
#[derive(Default)]
pub(crate) struct Options {
    /// Lines of postgresql.conf.
    pub(crate) conf: Vec<String>,
    /// Lines of pg_hba.conf, after the one that lets the superuser in by the socket.
    pub(crate) hba: Vec<String>,
    /// SQL to run as the superuser after the start.
    pub(crate) sql: Vec<String>,
    /// Certificate and key in PEM: TLS is on.
    pub(crate) tls: Option<(String, String)>,
    /// The authority for client certificates, in PEM.
    pub(crate) client_ca: Option<String>,
    /// Begin in a recovery that never ends: every connection gets 57P03.
    pub(crate) recovering: bool,
}

/// A running server, ended on drop.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) folder: PathBuf,
    child: Child,
}

fn ids() -> Option<(u32, u32)> {
    static IDS: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *IDS.get_or_init(|| {
        let id = |flag: &str, who: &str| {
            let out = Command::new("id").args([flag, who]).output().ok()?;
            String::from_utf8(out.stdout).ok()?.trim().parse::<u32>().ok()
        };
        let me = Command::new("id").arg("-u").output().unwrap();
        let user = Sandbox::shared(Engine::Pg17).variable("MS5_SANDBOX_OS_USER");
        (me.stdout == b"0\n").then(|| (id("-u", user).unwrap(), id("-g", user).unwrap()))
    })
}

fn as_postgres(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
    if let Some((uid, gid)) = ids() {
        command.uid(uid).gid(gid);
    }
    command
}

/// Hands a path to the server's user.
fn give(path: &Path, mode: u32) {
    if let Some((uid, gid)) = ids() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A folder of this test run's own.
pub(crate) fn fresh_folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = base().join(format!("{}-{n}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let folder = fresh_folder("template");
        give(&folder, 0o755);
        let data = folder.join("data");
        let out = as_postgres(&format!("{}/initdb", bin()))
            .args([
                "-D",
                data.to_str().unwrap(),
                "-U",
                "super",
                "-A",
                "trust",
                "--no-sync",
                "--wal-segsize=1",
            ])
            .args(["-E", "UTF8", "--locale=C", "--no-instructions"])
            .output()
            .unwrap();
        assert!(out.status.success(), "initdb: {}", String::from_utf8_lossy(&out.stderr));
        data
    })
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub(crate) fn start(options: &Options) -> Self {
        let folder = fresh_folder("server");
        give(&folder, 0o755);
        let data = folder.join("data");
        let copied =
            as_postgres("/bin/cp").args(["-a".as_ref(), template().as_os_str(), data.as_os_str()]).status();
        assert!(copied.unwrap().success());
        let port = free_port();
        let mut conf: Vec<String> = [
            "fsync = off",
            "shared_buffers = 1MB",
            "max_wal_senders = 0",
            "wal_level = minimal",
            "autovacuum = off",
            "jit = off",
            "logging_collector = off",
            "log_connections = on",
            "listen_addresses = '127.0.0.1, ::1'",
            "password_encryption = 'scram-sha-256'",
        ]
        .map(str::to_owned)
        .to_vec();
        conf.push(format!("port = {port}"));
        conf.push(format!("unix_socket_directories = '{0}, @{0}'", folder.display()));
        if let Some((cert, key)) = &options.tls {
            fs::write(folder.join("server.crt"), cert).unwrap();
            fs::write(folder.join("server.key"), key).unwrap();
            give(&folder.join("server.crt"), 0o644);
            give(&folder.join("server.key"), 0o600);
            conf.push("ssl = on".to_owned());
            conf.push(format!("ssl_cert_file = '{}/server.crt'", folder.display()));
            conf.push(format!("ssl_key_file = '{}/server.key'", folder.display()));
        }
        if let Some(ca) = &options.client_ca {
            fs::write(folder.join("client-ca.crt"), ca).unwrap();
            give(&folder.join("client-ca.crt"), 0o644);
            conf.push(format!("ssl_ca_file = '{}/client-ca.crt'", folder.display()));
        }
        if options.recovering {
            fs::write(data.join("standby.signal"), "").unwrap();
            give(&data.join("standby.signal"), 0o600);
            conf.push("hot_standby = off".to_owned());
            conf.push("restore_command = 'false'".to_owned());
        }
        conf.extend(options.conf.iter().cloned());
        let mut hba = vec!["local all super trust".to_owned()];
        hba.extend(options.hba.iter().cloned());
        fs::write(data.join("postgresql.conf"), conf.join("\n") + "\n").unwrap();
        fs::write(data.join("pg_hba.conf"), hba.join("\n") + "\n").unwrap();
        give(&data.join("postgresql.conf"), 0o600);
        give(&data.join("pg_hba.conf"), 0o600);
        let log = File::create(folder.join("log")).unwrap();
        let child = as_postgres(&format!("{}/postgres", bin()))
            .args(["-D", data.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self { port, folder, child };
        server.wait(options.recovering);
        for sql in &options.sql {
            server.sql(sql);
        }
        server
    }

    fn wait(&mut self, recovering: bool) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            // 0: accepts connections; 1: rejects them, as while it recovers.
            let ready = Command::new(format!("{}/pg_isready", bin()))
                .env_clear()
                .args(["-q", "-h", self.folder.to_str().unwrap(), "-p", &self.port.to_string()])
                .status()
                .unwrap();
            if ready.code() == Some(i32::from(recovering)) {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "the server does not come up:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs SQL as the superuser and gives its output.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let out = Command::new(format!("{}/psql", bin()))
            .env_clear()
            .args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-U", "super", "-d", "postgres", "-c", sql])
            .args(["-h", self.folder.to_str().unwrap(), "-p", &self.port.to_string()])
            .output()
            .unwrap();
        assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Sends the postmaster a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT".to_owned(), self.child.id().to_string()]).status();
        let _ = Command::new("kill").args(["-INT".to_owned(), self.child.id().to_string()]).status();
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > Duration::from_secs(10) {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
