//! Encryption of a backup's files by age: for whom they are written, and the key that opens them.
//!
//! Each file is an age file of its own, so `age -d -i KEY_FILE x.age` gives it back without our tools. Its clear text can be read
//! from any place in it, so members are read side by side as those of a plain file are.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use age::stream::{StreamReader, StreamWriter};
use age::x25519::Recipient;
use age::{DecryptError, Decryptor, Encryptor, Identity, IdentityFile};
use ms5_common::config::Variables;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;

use crate::args::ENCRYPT_TO;

/// What the name of an encrypted file ends with.
pub(crate) const ENDING: &str = ".age";
/// The variable that names the file of the key, where `--identity` does not.
pub(crate) const VARIABLE: &str = "MS5_IDENTITY";
/// What a secret key begins with.
const SECRET: &str = "AGE-SECRET-KEY-";
/// How much of a file with keys is read.
const LONGEST: u64 = 1 << 20;

/// Whether a file is encrypted, by its name.
pub(crate) fn is_sealed(file: &str) -> bool {
    file.ends_with(ENDING)
}

/// Those who can open what is written for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Understands `--encrypt-to`: recipients, and files that name one a line, with commas between.
    ///
    /// # Errors
    /// [`Exit::Usage`] for what is no recipient; [`Exit::Config`] for a file that cannot be read or names none.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut all: Vec<Recipient> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if part.starts_with(SECRET) {
                // It is not repeated: it would stand in the log.
                return Err(Error::new(Exit::Usage, format!("{ENCRYPT_TO} was given a secret key"))
                    .because("whoever sees it can read the backups; by now other users of this machine may have, and the shell's history")
                    .hint("throw that key away, make another one (age-keygen), and give its public half: age1..."));
            }
            let found = match Recipient::from_str(part) {
                Ok(recipient) => vec![recipient],
                Err(_) => of_file(Path::new(part))?,
            };
            for recipient in found {
                if !all.contains(&recipient) {
                    all.push(recipient);
                }
            }
        }
        if all.is_empty() {
            return Err(Error::new(Exit::Usage, format!("{ENCRYPT_TO} names nobody")).hint(HOW));
        }
        Ok(Self(all))
    }

    /// Each as it is written: `age1...`.
    pub(crate) fn words(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// Encrypts what is written to it; [`StreamWriter::finish`] ends it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn seal<W: Write>(&self, to: W) -> io::Result<StreamWriter<W>> {
        let each = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        Encryptor::with_recipients(each).map_err(io::Error::other)?.wrap_output(to)
    }
}

const HOW: &str =
    "age-keygen -o KEY_FILE makes a key and shows its recipient, age1...; keep KEY_FILE on another machine";

fn of_file(path: &Path) -> Result<Vec<Recipient>> {
    let wrong = |what: String| {
        Error::new(Exit::Config, format!("{ENCRYPT_TO}: {what}")).because("nothing was touched").hint(HOW)
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        wrong(format!("{} is neither a recipient of age (age1...) nor a file of them", path.display()))
            .because(error)
    })?;
    let mut found = Vec::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("{}, line {}", path.display(), number + 1);
        if line.starts_with(SECRET) {
            return Err(wrong(format!("{place} is a secret key, which does not belong on this machine"))
                .hint(format!("age-keygen -y {} shows its recipient: give that", path.display())));
        }
        found.push(
            Recipient::from_str(line)
                .map_err(|why| wrong(format!("{place} is no recipient of age")).because(why))?,
        );
    }
    if found.is_empty() {
        return Err(wrong(format!("{} names no recipient", path.display())));
    }
    Ok(found)
}

/// What opens files that were encrypted for it.
#[derive(Clone)]
pub(crate) struct Key {
    path: PathBuf,
    identities: Arc<Vec<Box<dyn Identity + Send + Sync>>>,
}

impl fmt::Debug for Key {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "the key in {}", self.path.display())
    }
}

impl Key {
    /// Reads the file that `--identity` or [`VARIABLE`] names; None where neither does.
    ///
    /// # Errors
    /// [`Exit::Config`] where it cannot be read or holds no key.
    pub(crate) fn given(flag: Option<&str>, variables: &Variables) -> Result<Option<Self>> {
        let path = flag.or_else(|| variables.get(VARIABLE)).filter(|path| !path.is_empty());
        path.map(|path| Self::read(Path::new(path))).transpose()
    }

    fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| {
            Error::new(Exit::Config, format!("cannot read a key of age from {}", path.display()))
                .because(why)
                .because("nothing was touched")
                .hint("it is the file that age-keygen wrote, with a line that begins with AGE-SECRET-KEY-1")
        };
        // Once: it may be a pipe.
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(LONGEST).read_to_end(&mut text))
            .map_err(|error| wrong(error.to_string()))?;
        let start = String::from_utf8_lossy(text.get(..64).unwrap_or(&text));
        if start.starts_with("age-encryption.org/") || start.contains("BEGIN AGE ENCRYPTED FILE") {
            return Err(wrong("it is protected by a passphrase".to_owned())
                .hint("open it where only you can read it: age -d KEY_FILE > /dev/shm/key, and remove that afterwards"));
        }
        let identities = IdentityFile::from_buffer(text.as_slice())
            .map_err(|error| wrong(error.to_string()))?
            .into_identities()
            .map_err(|error| wrong(error.to_string()))?;
        if identities.is_empty() {
            return Err(wrong("there is none in it".to_owned()));
        }
        Ok(Self { path: path.to_owned(), identities: Arc::new(identities) })
    }

    /// The clear text of an encrypted file, from its beginning.
    ///
    /// # Errors
    /// The system's; that this key does not open it.
    pub(crate) fn open(&self, file: File) -> io::Result<StreamReader<File>> {
        let each = self.identities.iter().map(|identity| identity.as_ref() as &dyn Identity);
        Decryptor::new(file).and_then(|sealed| sealed.decrypt(each)).map_err(|error| match error {
            DecryptError::Io(error) => error,
            DecryptError::NoMatchingKeys => {
                io::Error::new(io::ErrorKind::PermissionDenied, format!("it is not encrypted for {self:?}"))
            }
            error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        })
    }
}

/// How long the clear text is; the last piece is read for it, so that a file which was cut off has none.
///
/// # Errors
/// The system's, or that the file was cut off.
pub(crate) fn length(text: &mut StreamReader<File>) -> io::Result<u64> {
    let end = text.seek(SeekFrom::End(0))?;
    text.seek(SeekFrom::Start(0))?;
    Ok(end)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use age::secrecy::ExposeSecret;
    use age::x25519;

    /// Somebody, and the key of theirs.
    pub(crate) fn pair() -> (Recipients, Key) {
        let identity = x25519::Identity::generate();
        let recipients = Recipients(vec![identity.to_public()]);
        (recipients, Key { path: "a test".into(), identities: Arc::new(vec![Box::new(identity)]) })
    }

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ms5-seal-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn recipients_and_files_of_them() {
        let folder = folder("recipients");
        let [one, two] = [(); 2].map(|()| x25519::Identity::generate().to_public().to_string());
        let file = folder.join("recipients");
        std::fs::write(&file, format!("# plant\n\n{two}\n")).unwrap();
        let both = Recipients::parse(&format!("{one}, {},{one}", file.display())).unwrap();
        assert_eq!(both.words(), [one.clone(), two]);
        let secret = x25519::Identity::generate().to_string();
        let refused = Recipients::parse(secret.expose_secret()).unwrap_err();
        assert_eq!(refused.exit(), Exit::Usage);
        assert!(!format!("{:?}", refused.lines()).contains(&secret.expose_secret()[..20]));
        std::fs::write(&file, format!("{one}\n{}\n", secret.expose_secret())).unwrap();
        let refused = Recipients::parse(&file.display().to_string()).unwrap_err();
        assert!(refused.to_string().contains("line 2 is a secret key"), "{refused}");
        assert!(!format!("{:?}", refused.lines()).contains(&secret.expose_secret()[16..]));
        std::fs::write(&file, "# nobody\n").unwrap();
        for nobody in [file.display().to_string(), one[..30].to_owned(), " , ".to_owned()] {
            assert!(Recipients::parse(&nobody).is_err(), "{nobody}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn only_the_key_opens_it_and_all_of_it() {
        let folder = folder("key");
        let (file, key) = (folder.join("x.age"), folder.join("key"));
        let mine = x25519::Identity::generate();
        let recipients = Recipients(vec![x25519::Identity::generate().to_public(), mine.to_public()]);
        let text = vec![7_u8; 200_000];
        let mut to = recipients.seal(File::create(&file).unwrap()).unwrap();
        to.write_all(&text).unwrap();
        to.finish().unwrap();
        let given = |secret: &x25519::Identity| {
            std::fs::write(&key, format!("# made\n{}\n", secret.to_string().expose_secret())).unwrap();
            Key::given(key.to_str(), &Variables::default()).unwrap().unwrap()
        };
        let mut clear = given(&mine).open(File::open(&file).unwrap()).unwrap();
        assert_eq!(length(&mut clear).unwrap(), 200_000);
        let mut read = Vec::new();
        clear.read_to_end(&mut read).unwrap();
        assert_eq!(read, text);
        let other = given(&x25519::Identity::generate()).open(File::open(&file).unwrap()).err().unwrap();
        assert_eq!(other.kind(), io::ErrorKind::PermissionDenied, "{other}");
        // Cut at the end of a piece: each piece that is there is right.
        let sealed = std::fs::read(&file).unwrap();
        let header = sealed.len() - 200_000 - 4 * 16;
        std::fs::write(&file, &sealed[..header + 2 * (65_536 + 16)]).unwrap();
        assert!(length(&mut given(&mine).open(File::open(&file).unwrap()).unwrap()).is_err());
        std::fs::write(&key, "age-encryption.org/v1\n-> scrypt").unwrap();
        let refused = Key::given(key.to_str(), &Variables::default()).unwrap_err();
        assert!(format!("{:?}", refused.lines()).contains("passphrase"), "{refused}");
        for nothing in ["", "# none\n", "rubbish\n"] {
            std::fs::write(&key, nothing).unwrap();
            assert!(Key::given(key.to_str(), &Variables::default()).is_err(), "{nothing:?}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
