//! The ways in which a runbook's line is called: by whom, from where, in what environment.

use std::fs;
use std::path::Path;

use migration_tests::program::Program;

use crate::plant::{Plant, SHIMS};

/// A way of calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Typed in scripts/, in bash.
    Typed,
    /// From another folder, by its absolute path.
    Elsewhere,
    /// Through a symbolic link to the script, in a folder that is not the project's.
    Link,
    /// Through a symbolic link to the scripts' folder.
    FolderLink,
    /// As cron calls it: an empty environment, and a file that is read first.
    Cron,
    /// Inside a script with `bash -eu -o pipefail`.
    Strict,
    /// By dash, which is Debian's sh.
    Dash,
    /// With `MS5_EXIT=classic`.
    Classic,
}

impl Way {
    /// Those that the page names.
    pub(crate) const NAMED: [(&str, Self); 7] = [
        ("elsewhere", Self::Elsewhere),
        ("link", Self::Link),
        ("folder link", Self::FolderLink),
        ("cron", Self::Cron),
        ("strict", Self::Strict),
        ("dash", Self::Dash),
        ("classic", Self::Classic),
    ];

    /// The way with a name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|(_, way)| *way)
    }

    /// Its name on the page.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, way)| *way == self).map_or("typed", |(name, _)| name)
    }

    /// The exit status that stands for one of ours.
    pub(crate) fn exit(self, code: i32) -> i32 {
        if self == Self::Classic { code.min(1) } else { code }
    }

    /// A line, called so.
    pub(crate) fn program(self, plant: &Plant<'_>, line: &str) -> Program {
        let home = plant.home();
        let scripts = home.join("scripts");
        let in_folder = |folder: &Path| line.replace("./", &format!("{}/", folder.display()));
        let shell = |shell: &str, line: &str| {
            Program::at(Path::new(shell)).envs(&plant.variables).current_dir(&scripts).args(["-c", line])
        };
        match self {
            Self::Typed => shell("/bin/bash", line),
            Self::Elsewhere => shell("/bin/bash", &in_folder(&scripts)).current_dir(Path::new("/")),
            Self::Link => {
                let links = home.join("links");
                fs::create_dir_all(&links).expect("a folder for links");
                for shim in SHIMS {
                    link(&scripts.join(shim), &links.join(shim));
                }
                shell("/bin/bash", line).current_dir(&links)
            }
            Self::FolderLink => {
                let folder = home.join("tools");
                link(&scripts, &folder);
                shell("/bin/bash", &in_folder(&folder)).current_dir(Path::new("/"))
            }
            Self::Cron => {
                let quoted = |(name, value): &(String, String)| format!("export {name}='{value}'\n");
                // What cron gives itself is not in the file, or its own would never be in effect.
                let given = ["HOME", "PATH", "LOGNAME", "LANG"];
                let of_file = plant.variables.iter().filter(|(name, _)| !given.contains(&name.as_str()));
                let exports: String = of_file.map(quoted).collect();
                fs::write(home.join("ms5.env"), exports).expect("a file of variables");
                Program::at(Path::new("/bin/sh"))
                    .envs(&[
                        ("HOME".to_owned(), home.display().to_string()),
                        ("SHELL".to_owned(), "/bin/sh".to_owned()),
                        ("PATH".to_owned(), format!("/usr/bin:/bin:{}", plant.server_bin().display())),
                        ("LOGNAME".to_owned(), "operator".to_owned()),
                    ])
                    .current_dir(home)
                    .args(["-c", &format!(". \"$HOME/ms5.env\" && cd scripts && {line}")])
            }
            Self::Strict => {
                let script = home.join("strict.sh");
                fs::write(&script, format!("set -eu -o pipefail\n{line}\n")).expect("a script");
                Program::at(Path::new("/bin/bash"))
                    .envs(&plant.variables)
                    .current_dir(&scripts)
                    .args(["-eu", "-o", "pipefail"])
                    .arg(script)
            }
            Self::Dash => shell("/bin/dash", line),
            Self::Classic => shell("/bin/bash", line).env("MS5_EXIT", "classic"),
        }
    }
}

fn link(to: &Path, at: &Path) {
    if !at.is_symlink() {
        std::os::unix::fs::symlink(to, at).expect("a link");
    }
}
