//! Turns the TLS settings into a rustls configuration, with libpq's files, defaults and checks.
//!
//! Source: `initialize_SSL` in fe-secure-openssl.c, PostgreSQL 15; `sslrootcert=system` from 16.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::error::{Cause, Failure};
use super::settings::{Settings, SslMode};
use super::verify::{LibpqVerifier, Parsed, Trust};

/// libpq's default files, in the home folder.
pub(super) const ROOT_FILE: &str = ".postgresql/root.crt";
const CRL_FILE: &str = ".postgresql/root.crl";
const CERTIFICATE_FILE: &str = ".postgresql/postgresql.crt";
const KEY_FILE: &str = ".postgresql/postgresql.key";

/// What a handshake needs, and what it leaves to be heard.
#[derive(Clone)]
pub(super) struct TlsSetup {
    pub(super) config: ClientConfig,
    /// Why the verifier refused the last certificate.
    pub(super) refusal: Arc<Mutex<Option<Failure>>>,
    pub(super) warnings: Vec<String>,
    /// Set when a server asks for our certificate and gets it.
    pub(super) identity_shown: Arc<AtomicBool>,
}

/// Reads the files and builds the configuration.
pub(super) fn setup(settings: &Settings) -> Result<TlsSetup, Failure> {
    let mut warnings = Vec::new();
    let provider = Arc::new(ring::default_provider());
    let mode = settings.effective_sslmode();
    let trust = trust(settings, mode, &mut warnings)?;
    let name = (mode == SslMode::VerifyFull).then(|| settings.host.clone());
    let refusal = Arc::new(Mutex::new(None));
    let verifier =
        LibpqVerifier::new(provider.signature_verification_algorithms, trust, name, Arc::clone(&refusal));
    let identity = client_identity(settings, &provider, &mut warnings)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::new(Cause::TlsFailed, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let identity_shown = Arc::new(AtomicBool::new(false));
    let mut config = match identity {
        Some(key) => {
            let identity = Identity { key: Arc::new(key), shown: Arc::clone(&identity_shown) };
            builder.with_client_cert_resolver(Arc::new(identity))
        }
        None => builder.with_no_client_auth(),
    };
    // Sessions are few, and every one shall show its certificate.
    config.resumption = Resumption::disabled();
    Ok(TlsSetup { config, refusal, warnings, identity_shown })
}

/// The client's one certificate, shown to every server that asks, and a note that it was.
#[derive(Debug)]
struct Identity {
    key: Arc<CertifiedKey>,
    shown: Arc<AtomicBool>,
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shown.store(true, Ordering::Release);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The authorities to hold the server's certificate to; with none, any certificate will do.
///
/// A root file that is there is used in every mode: so `require` becomes `verify-ca`, as libpq documents.
fn trust(settings: &Settings, mode: SslMode, warnings: &mut Vec<String>) -> Result<Option<Trust>, Failure> {
    if settings.roots_are_system() {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let why = found.errors.first().map_or_else(|| "it holds none".to_owned(), ToString::to_string);
            return Err(Failure::new(
                Cause::RootFile,
                format!("the system's store of trusted certificates cannot be used: {why}"),
            ));
        }
        return Ok(Some(Trust::new("the system's store".to_owned(), found.certs)));
    }
    let Some(path) = settings.file(settings.sslrootcert.as_ref(), ROOT_FILE) else {
        if !mode.demands_root() {
            return Ok(None);
        }
        return Err(Failure::new(
            Cause::RootFile,
            "there is no home folder to find the root certificate file in",
        )
        .with_cure("Name the file of the trusted authority's certificate in PGSSLROOTCERT."));
    };
    let shown = path.display();
    if let Err(error) = fs::metadata(&path) {
        if mode.demands_root() {
            return Err(Failure::new(
                Cause::RootFile,
                format!("root certificate file {shown} cannot be used: {error}"),
            ));
        }
        if settings.sslrootcert.is_some() {
            warnings.push(format!(
                "root certificate file {shown} cannot be used ({error}): with sslmode={mode} the server's certificate is not checked"
            ));
        }
        return Ok(None);
    }
    let unusable = |why: String| {
        Failure::new(Cause::RootFile, format!("root certificate file {shown} cannot be used: {why}"))
    };
    let text = fs::read(&path).map_err(|error| unusable(error.to_string()))?;
    let certificates = certificates(&text).map_err(unusable)?;
    let trust = Trust::new(shown.to_string(), certificates);
    if !trust.has_certificates() {
        return Err(unusable("it holds no certificate that can be read, in PEM form".to_owned()));
    }
    Ok(Some(trust.with_crls(revocation_lists(settings, warnings))))
}

/// The revocation lists. A file that is missing or holds no list is passed over, as in libpq, but not in silence.
fn revocation_lists(settings: &Settings, warnings: &mut Vec<String>) -> Vec<CertRevocationList<'static>> {
    let Some(path) = settings.file(settings.sslcrl.as_ref(), CRL_FILE) else {
        return Vec::new();
    };
    let lists = match fs::read(&path) {
        Ok(text) => read_revocation_lists(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && settings.sslcrl.is_none() => {
            return Vec::new();
        }
        Err(error) => Err(error.to_string()),
    };
    lists.unwrap_or_else(|why| {
        warnings.push(format!(
            "revocation list {} cannot be used ({why}): no certificate is taken for revoked",
            path.display()
        ));
        Vec::new()
    })
}

fn read_revocation_lists(pem: &[u8]) -> Result<Vec<CertRevocationList<'static>>, String> {
    let mut lists = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(pem) {
        let der = der.map_err(|error| error.to_string())?;
        lists.push(OwnedCertRevocationList::from_der(&der).map_err(|error| error.to_string())?.into());
    }
    if lists.is_empty() { Err("it holds no list in PEM form".to_owned()) } else { Ok(lists) }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// The client's certificate and key, if there is a certificate.
fn client_identity(
    settings: &Settings,
    provider: &CryptoProvider,
    warnings: &mut Vec<String>,
) -> Result<Option<CertifiedKey>, Failure> {
    let Some(path) = settings.file(settings.sslcert.as_ref(), CERTIFICATE_FILE) else {
        return Ok(None);
    };
    let shown = path.display();
    let unusable = |why: String| {
        Failure::new(
            Cause::ClientCertificateFile,
            format!("client certificate {shown} cannot be used: {why}"),
        )
    };
    match fs::metadata(&path) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            // libpq goes on without one: the server may not want it.
            if settings.sslcert.is_some() {
                warnings
                    .push(format!("client certificate {shown} is not there: none is shown to the server"));
            }
            return Ok(None);
        }
        Err(error) => return Err(unusable(error.to_string())),
    }
    let text = fs::read(&path).map_err(|error| unusable(error.to_string()))?;
    let chain = certificates(&text).map_err(unusable)?;
    let Some(leaf) = chain.first() else {
        return Err(unusable("it holds no certificate in PEM form".to_owned()));
    };
    let public = Parsed::new(leaf.clone())
        .ok()
        .and_then(|leaf| leaf.public_key())
        .ok_or_else(|| unusable("it is not X.509 in DER".to_owned()))?;
    let Some(key_path) = settings.file(settings.sslkey.as_ref(), KEY_FILE) else {
        return Err(Failure::new(Cause::ClientKeyFile, format!("client certificate {shown} has no key"))
            .with_cure("Name the certificate's key in PGSSLKEY."));
    };
    let key = client_key(&key_path, provider)?;
    if key.public_key().is_some_and(|ours| ours.as_ref() != public) {
        return Err(Failure::new(
            Cause::ClientKeyFile,
            format!("client key {} does not belong to the certificate {shown}", key_path.display()),
        ));
    }
    Ok(Some(CertifiedKey::new(chain, key)))
}

/// Reads a private key after checking that nobody else can.
fn client_key(path: &Path, provider: &CryptoProvider) -> Result<Arc<dyn rustls::sign::SigningKey>, Failure> {
    let shown = path.display();
    let unusable =
        |why: String| Failure::new(Cause::ClientKeyFile, format!("client key {shown} cannot be used: {why}"));
    let meta = fs::metadata(path).map_err(|error| unusable(error.to_string()))?;
    if !meta.is_file() {
        return Err(unusable("it is not a plain file".to_owned()));
    }
    // A key of root's may be readable by a group, so that a machine's services can share it.
    let (forbidden, allowed) = if meta.uid() == 0 { (0o037, "0640") } else { (0o077, "0600") };
    if meta.mode() & forbidden != 0 {
        return Err(unusable(format!(
            "group or others have access to it (mode {:04o}, {allowed} at most)",
            meta.mode() & 0o7777
        ))
        .with_cure(format!("Run: chmod {allowed} {shown}")));
    }
    let text = fs::read(path).map_err(|error| unusable(error.to_string()))?;
    if is_encrypted(&text) {
        return Err(unusable("it is encrypted with a passphrase, which the tools cannot ask for".to_owned())
            .with_cure(format!(
                "Make an unencrypted copy that only you can read: (umask 077; openssl pkey -in {shown} -out NEW.key), and name it in PGSSLKEY."
            )));
    }
    let key = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => key,
        // libpq tries DER next, and then reports the first error.
        Err(error) => {
            PrivateKeyDer::try_from(text).map_err(|_| unusable(format!("no key in PEM form: {error}")))?
        }
    };
    provider.key_provider.load_private_key(key).map_err(|error| {
        unusable(format!("{error} (RSA of 2048 bits or more, ECDSA P-256, P-384 and Ed25519 can be used)"))
    })
}

fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.lines().any(|line| {
        let line = line.trim();
        line == "-----BEGIN ENCRYPTED PRIVATE KEY-----" || line.starts_with("Proc-Type: 4,ENCRYPTED")
    })
}
