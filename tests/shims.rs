//! The scripts that stand in for the old ones: from any folder, through a link, with or without cargo on PATH.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use migration_tests::lab::Lab;
use migration_tests::program::{Program, TempDir, bin_dir, project_root};
use migration_tests::server::{Engine, Server};

const SHIMS: [(&str, &str); 5] = [
    ("migration-runner.sh", "migration-runner"),
    ("pre-migration-validation.sh", "pre-validate"),
    ("post-migration-validation.sh", "post-validate"),
    ("backup-rollback-manager.sh", "backup-manager"),
    ("test-migration-scripts.sh", "migration-tests"),
];

/// Copies a program by a process of its own: were it written by this one, a test that starts a process at that moment
/// would hand it the open file, and the program could not be executed (ETXTBSY) until that process is gone.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-p").args([from, to]).status().unwrap();
    assert!(copied.success(), "cp {} {}", from.display(), to.display());
}

fn shim(path: &Path) -> Program {
    Program::at(path).env("PATH", "/usr/bin:/bin").env("MS5_BIN_DIR", bin_dir().unwrap())
}

#[test]
fn each_finds_its_binary_and_hands_arguments_and_exit_code_over() {
    let elsewhere = TempDir::new("shim").unwrap();
    for (script, tool) in SHIMS {
        let path = project_root().join("scripts").join(script);
        let _ = shim(&path)
            .current_dir(elsewhere.path())
            .arg("--version")
            .run()
            .expect(0)
            .shows(&[&format!("{tool} 0.")]);
        let _ = shim(&path).arg("--no such flag").run().expect(2).shows(&["unknown flag --no such flag"]);
        let link = elsewhere.path().join("link.sh");
        symlink(&path, &link).unwrap();
        let _ = shim(&link).arg("--version").run().expect(0).shows(&[tool]);
        std::fs::remove_file(link).unwrap();
    }
}

#[test]
fn a_binary_beside_the_script_comes_after_ms5_bin_dir_and_none_at_all_is_said() {
    let folder = TempDir::new("shim").unwrap();
    let scripts = folder.path().join("scripts");
    std::fs::create_dir(&scripts).unwrap();
    let script = scripts.join("migration-runner.sh");
    copy(&project_root().join("scripts/migration-runner.sh"), &script);
    let bare = || Program::at(&script).env("PATH", "/usr/bin:/bin");
    let _ =
        bare().run().expect(3).shows(&["cannot find the binary migration-runner", "cargo build --release"]);
    copy(&bin_dir().unwrap().join("migration-runner"), &scripts.join("migration-runner"));
    let _ = bare().arg("--version").run().expect(0).shows(&["migration-runner 0."]);
    let _ = bare().env("MS5_BIN_DIR", "/nonexistent").arg("--version").run().expect(0);
}

#[test]
fn ms5_home_is_the_folder_above_scripts_unless_it_is_set() {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[("001_a.sql", "CREATE TABLE a (id int);")]);
    let scripts = lab.home().join("scripts");
    std::fs::create_dir(&scripts).unwrap();
    let script = scripts.join("migration-runner.sh");
    copy(&project_root().join("scripts/migration-runner.sh"), &script);
    let run = || shim(&script).envs(&lab.database.variables()).current_dir(Path::new("/"));
    let _ = run().run().expect(0).shows(&["Migration 001 - A completed"]);
    assert!(lab.log().contains("All migrations completed"), "the log lies under the folder above scripts/");
    let _ = run().env("MS5_HOME", "/nonexistent").run().expect(3).shows(&["/nonexistent/migrations"]);
}
