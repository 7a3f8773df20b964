//! Decides whether a server's certificate is good enough, as libpq with OpenSSL does.
//!
//! rustls' own verifier is stricter than OpenSSL in three ways that meet real PostgreSQL servers: it
//! ignores the common name, and refuses both a certificate that is its own authority and X.509 version 1,
//! which are what PostgreSQL's documentation makes ("Creating Certificates"). So the chain is checked by
//! webpki where webpki can, by `Chain` here where it cannot, and the name by libpq's rule in `names`.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error as TlsError, PeerMisbehaved, SignatureScheme};
use webpki::{CertRevocationList, EndEntityCert, KeyUsage as Eku, RevocationOptionsBuilder};
use x509_cert::certificate::{Certificate, Version};
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::{AssociatedOid, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Reader, SliceReader, Tag, Tagged};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, NameConstraints, SubjectAltName};

use super::error::{Cause, Failure};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const CERTIFICATE_POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.32");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");

/// Certificates between a server's and its authority's that are followed at most.
const MAX_DEPTH: usize = 8;

/// Signatures that are checked at most: a server may send any number of certificates that fit one another.
const MAX_SIGNATURES: usize = 100;

/// A certificate, in both its forms.
pub(super) struct Parsed {
    der: CertificateDer<'static>,
    cert: Certificate,
}

impl Parsed {
    pub(super) fn new(der: CertificateDer<'static>) -> Result<Self, x509_cert::der::Error> {
        let cert = Certificate::from_der(&der)?;
        Ok(Self { der, cert })
    }

    /// The public key's whole structure, in DER.
    pub(super) fn public_key(&self) -> Option<Vec<u8>> {
        self.cert.tbs_certificate.subject_public_key_info.to_der().ok()
    }

    fn is_self_issued(&self) -> bool {
        self.cert.tbs_certificate.issuer == self.cert.tbs_certificate.subject
    }

    fn subject(&self) -> String {
        let name = self.cert.tbs_certificate.subject.to_string();
        if name.is_empty() { "(no subject)".to_owned() } else { name }
    }

    /// An extension, if it is there. One that cannot be read, or is there twice, is an error.
    fn extension<'a, T: Decode<'a> + AssociatedOid>(&'a self) -> Result<Option<T>, x509_cert::der::Error> {
        Ok(self.cert.tbs_certificate.get::<T>()?.map(|(_, found)| found))
    }

    /// Whether the certificate calls itself an authority.
    fn is_ca(&self) -> bool {
        matches!(self.extension::<BasicConstraints>(), Ok(Some(BasicConstraints { ca: true, .. })))
    }

    /// Whether the certificate may issue others, with `below` authorities between it and the server's.
    /// Only a root may leave the constraint out, if it is old or says so by its key usage.
    ///
    /// Source: `X509_check_ca` in OpenSSL, which is laxer with those that are no roots.
    fn may_issue(&self, root: bool, below: usize) -> bool {
        let (Ok(constraints), Ok(usage)) =
            (self.extension::<BasicConstraints>(), self.extension::<KeyUsage>())
        else {
            return false;
        };
        let may_sign = usage.as_ref().is_none_or(KeyUsage::key_cert_sign);
        may_sign
            && match constraints {
                Some(BasicConstraints { ca, path_len_constraint: limit }) => {
                    ca && limit.is_none_or(|limit| below <= usize::from(limit))
                }
                None => root && (usage.is_some() || self.cert.tbs_certificate.version == Version::V1),
            }
    }

    /// Whether the certificate may be used by a server: no extended key usage, or one that says so.
    fn serves(&self) -> bool {
        match self.cert.tbs_certificate.get::<ExtendedKeyUsage>() {
            Ok(None) => true,
            Ok(Some((_, usage))) => usage.0.contains(&SERVER_AUTH),
            Err(_) => false,
        }
    }

    /// The time trouble, in words, if there is one.
    fn out_of_time(&self, now: UnixTime) -> Option<String> {
        let validity = &self.cert.tbs_certificate.validity;
        let seconds = now.as_secs();
        if seconds < validity.not_before.to_unix_duration().as_secs() {
            Some(format!("is not valid before {}", validity.not_before))
        } else if seconds > validity.not_after.to_unix_duration().as_secs() {
            Some(format!("expired at {}", validity.not_after))
        } else {
            None
        }
    }
}

/// Whom to trust.
pub(super) struct Trust {
    /// Where the authorities came from, for messages.
    pub(super) source: String,
    roots: Vec<Parsed>,
    /// Certificates of the file that are not their own issuers: they only help to build a chain,
    /// since OpenSSL takes none of them for a root.
    helpers: Vec<CertificateDer<'static>>,
    crls: Vec<CertRevocationList<'static>>,
}

impl Trust {
    pub(super) fn new(source: String, certificates: Vec<CertificateDer<'static>>) -> Self {
        let (mut roots, mut helpers) = (Vec::new(), Vec::new());
        for der in certificates {
            // What does not parse cannot be anybody's issuer here.
            let Ok(parsed) = Parsed::new(der) else {
                continue;
            };
            if parsed.is_self_issued() { roots.push(parsed) } else { helpers.push(parsed.der) }
        }
        Self { source, roots, helpers, crls: Vec::new() }
    }

    pub(super) fn with_crls(mut self, crls: Vec<CertRevocationList<'static>>) -> Self {
        self.crls = crls;
        self
    }

    pub(super) fn has_certificates(&self) -> bool {
        !self.roots.is_empty() || !self.helpers.is_empty()
    }
}

/// rustls' hook for the server's certificate.
pub(super) struct LibpqVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    trust: Option<Trust>,
    /// The name the certificate has to carry, for verify-full.
    name: Option<String>,
    /// Why the last certificate was refused, in more words than rustls carries.
    refusal: Arc<Mutex<Option<Failure>>>,
}

impl std::fmt::Debug for LibpqVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LibpqVerifier").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A refusal: what the user reads, and what the server is told.
struct Refusal {
    failure: Box<Failure>,
    alert: CertificateError,
}

impl Refusal {
    fn new(cause: Cause, alert: CertificateError, message: String) -> Self {
        Self { failure: Box::new(Failure::new(cause, message)), alert }
    }
}

impl LibpqVerifier {
    pub(super) fn new(
        algorithms: WebPkiSupportedAlgorithms,
        trust: Option<Trust>,
        name: Option<String>,
        refusal: Arc<Mutex<Option<Failure>>>,
    ) -> Self {
        Self { algorithms, trust, name, refusal }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let Some(trust) = &self.trust else {
            return Ok(());
        };
        let leaf = Parsed::new(leaf.clone().into_owned()).map_err(|error| {
            Refusal::new(
                Cause::CertificateUnusable,
                CertificateError::BadEncoding,
                format!("the server's certificate cannot be read: {error}"),
            )
        })?;
        self.check_chain(trust, &leaf, others, now)?;
        match &self.name {
            Some(name) => check_name(&leaf, name),
            None => Ok(()),
        }
    }

    fn check_chain(
        &self,
        trust: &Trust,
        leaf: &Parsed,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let shown = leaf.subject();
        if let Some(trouble) = leaf.out_of_time(now) {
            return Err(Refusal::new(
                Cause::CertificateExpired,
                CertificateError::Expired,
                format!("the server's certificate ({shown}) {trouble}"),
            ));
        }
        let helpers: Vec<CertificateDer<'_>> =
            others.iter().cloned().chain(trust.helpers.iter().cloned()).collect();
        let pinned = trust.roots.iter().any(|root| root.der == leaf.der);
        let verdict = if pinned || leaf.cert.tbs_certificate.version != Version::V3 || leaf.is_ca() {
            Chain { algorithms: &self.algorithms, trust, now, signatures: Cell::new(0) }.check(leaf, &helpers)
        } else {
            self.check_by_webpki(trust, leaf, &helpers, now)
        };
        verdict.map_err(|trouble| {
            let Trust { source, .. } = trust;
            match trouble {
                Trouble::Untrusted => {
                    // An expired authority counts for nothing; say so, for it looks like a missing one.
                    let expired = trust.roots.iter().find_map(|root| {
                        let near = root.cert.tbs_certificate.subject == leaf.cert.tbs_certificate.issuer;
                        root.out_of_time(now).filter(|_| near).map(|why| (root.subject(), why))
                    });
                    if let Some((root, why)) = expired {
                        return Refusal::new(
                            Cause::CertificateExpired,
                            CertificateError::Expired,
                            format!("the authority {root} in {source} {why}"),
                        );
                    }
                    let issuer = leaf.cert.tbs_certificate.issuer.to_string();
                    let message = if leaf.is_self_issued() {
                        format!("the server's certificate ({shown}) is its own issuer and is not in {source}")
                    } else {
                        format!("the server's certificate ({shown}) was issued by {issuer}, and {source} holds no authority that vouches for it")
                    };
                    Refusal::new(Cause::CertificateUntrusted, CertificateError::UnknownIssuer, message)
                }
                Trouble::Expired(what) => {
                    Refusal::new(Cause::CertificateExpired, CertificateError::Expired, what)
                }
                Trouble::Revoked(what) => {
                    Refusal::new(Cause::CertificateRevoked, CertificateError::Revoked, what)
                }
                Trouble::Unusable(what) => Refusal::new(
                    Cause::CertificateUnusable,
                    CertificateError::ApplicationVerificationFailure,
                    format!("the server's certificate ({shown}) cannot be accepted: {what}"),
                ),
            }
        })
    }

    fn check_by_webpki(
        &self,
        trust: &Trust,
        leaf: &Parsed,
        helpers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Trouble> {
        // OpenSSL holds an authority to its dates; webpki would not.
        let anchors: Vec<TrustAnchor<'_>> = trust
            .roots
            .iter()
            .filter(|root| root.out_of_time(now).is_none() && root.may_issue(true, 0))
            .filter_map(|root| webpki::anchor_from_trusted_cert(&root.der).ok())
            .collect();
        let crls: Vec<&CertRevocationList<'_>> = trust.crls.iter().collect();
        // Every certificate of the chain needs a list in force: OpenSSL's CRL_CHECK and CRL_CHECK_ALL.
        let revocation = RevocationOptionsBuilder::new(&crls)
            .ok()
            .map(|options| options.with_expiration_policy(webpki::ExpirationPolicy::Enforce).build());
        let cert = EndEntityCert::try_from(&leaf.der).map_err(|e| Trouble::from_webpki(&e))?;
        cert.verify_for_usage(
            self.algorithms.all,
            &anchors,
            helpers,
            now,
            Eku::server_auth(),
            revocation,
            None,
        )
        .map(|_| ())
        .map_err(|e| Trouble::from_webpki(&e))
    }

    /// The handshake's signature by a certificate that webpki does not read.
    fn check_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
        tls13: bool,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let bad = |error| TlsError::InvalidCertificate(error);
        let candidates = self
            .algorithms
            .mapping
            .iter()
            .find_map(|(scheme, algorithms)| (*scheme == dss.scheme).then_some(*algorithms))
            .ok_or(TlsError::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme))?;
        // TLS 1.3 binds a scheme to one algorithm, the first; it has no PKCS #1 signatures.
        let pkcs1 = [
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
        ];
        if tls13 && pkcs1.contains(&dss.scheme) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let candidates = if tls13 { candidates.get(..1).unwrap_or_default() } else { candidates };
        let cert = Certificate::from_der(cert).map_err(|_| bad(CertificateError::BadEncoding))?;
        let key = &cert.tbs_certificate.subject_public_key_info;
        let key_algorithm = contents(&key.algorithm).ok_or_else(|| bad(CertificateError::BadEncoding))?;
        candidates
            .iter()
            .filter(|algorithm| algorithm.public_key_alg_id().as_ref() == key_algorithm)
            .find_map(|algorithm| {
                algorithm.verify_signature(key.subject_public_key.raw_bytes(), message, dss.signature()).ok()
            })
            .map(|()| HandshakeSignatureValid::assertion())
            .ok_or_else(|| bad(CertificateError::BadSignature))
    }
}

impl ServerCertVerifier for LibpqVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self.check(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(Refusal { failure, alert }) => {
                *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(*failure);
                Err(TlsError::InvalidCertificate(alert))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        match EndEntityCert::try_from(cert) {
            Ok(_) => verify_tls12_signature(message, cert, dss, &self.algorithms),
            Err(_) => self.check_signature(message, cert, dss, false),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        match EndEntityCert::try_from(cert) {
            Ok(_) => verify_tls13_signature(message, cert, dss, &self.algorithms),
            Err(_) => self.check_signature(message, cert, dss, true),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What is wrong with a chain.
enum Trouble {
    Untrusted,
    Expired(String),
    Revoked(String),
    Unusable(String),
}

impl Trouble {
    fn from_webpki(error: &webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::UnknownIssuer | E::InvalidSignatureForPublicKey | E::CertDistrusted => Self::Untrusted,
            E::CertExpired { .. } | E::CertNotValidYet { .. } => Self::Expired(
                "a certificate between the server's and its authority's is out of its time".to_owned(),
            ),
            E::CertRevoked => {
                Self::Revoked("the revocation list holds the server's certificate or one above it".to_owned())
            }
            E::UnknownRevocationStatus => Self::Revoked(
                "the revocation list says nothing about the server's certificate or one above it".to_owned(),
            ),
            E::CrlExpired { .. } => Self::Revoked("the revocation list is out of date".to_owned()),
            other => Self::Unusable(other.to_string()),
        }
    }
}

/// Builds a chain by hand, for server certificates that webpki refuses by their form alone.
struct Chain<'a> {
    algorithms: &'a WebPkiSupportedAlgorithms,
    trust: &'a Trust,
    now: UnixTime,
    signatures: Cell<usize>,
}

impl Chain<'_> {
    fn check(&self, leaf: &Parsed, helpers: &[CertificateDer<'_>]) -> Result<(), Trouble> {
        if !self.trust.crls.is_empty() {
            return Err(Trouble::Unusable(
                "revocation can only be checked for X.509 version 3 certificates that are not their own authority"
                    .to_owned(),
            ));
        }
        if !leaf.serves() {
            return Err(Trouble::Unusable("its extended key usage leaves servers out".to_owned()));
        }
        if let Some(oid) = unknown_critical(leaf) {
            return Err(Trouble::Unusable(format!("its critical extension {oid} is unknown")));
        }
        // A certificate that is itself among the roots needs no other.
        if self.trust.roots.iter().any(|root| root.der == leaf.der) {
            return Ok(());
        }
        let helpers: Vec<Parsed> =
            helpers.iter().filter_map(|der| Parsed::new(der.clone().into_owned()).ok()).collect();
        if self.reaches_root(leaf, &helpers, 0) { Ok(()) } else { Err(Trouble::Untrusted) }
    }

    /// Whether a root stands behind `child`, with `below` certificates between it and the leaf.
    fn reaches_root(&self, child: &Parsed, helpers: &[Parsed], below: usize) -> bool {
        if self.trust.roots.iter().any(|root| self.may_issue(root, true, below) && self.issued(root, child)) {
            return true;
        }
        below < MAX_DEPTH
            && helpers.iter().any(|helper| {
                !helper.is_self_issued()
                    && self.may_issue(helper, false, below)
                    && self.issued(helper, child)
                    && self.reaches_root(helper, helpers, below + 1)
            })
    }

    fn may_issue(&self, issuer: &Parsed, root: bool, below: usize) -> bool {
        issuer.may_issue(root, below)
            && issuer.out_of_time(self.now).is_none()
            && unknown_critical(issuer).is_none()
            // Constraints on names are webpki's business; a chain that has them is not accepted here.
            && matches!(issuer.extension::<NameConstraints>(), Ok(None))
    }

    fn issued(&self, issuer: &Parsed, child: &Parsed) -> bool {
        issuer.cert.tbs_certificate.subject == child.cert.tbs_certificate.issuer
            && self.signed(issuer, child).unwrap_or(false)
    }

    fn signed(&self, issuer: &Parsed, child: &Parsed) -> Option<bool> {
        self.signatures.set(self.signatures.get() + 1);
        if self.signatures.get() > MAX_SIGNATURES {
            return None;
        }
        let signature_algorithm = contents(&child.cert.signature_algorithm)?;
        if child.cert.tbs_certificate.signature != child.cert.signature_algorithm {
            return Some(false);
        }
        let key = &issuer.cert.tbs_certificate.subject_public_key_info;
        let key_algorithm = contents(&key.algorithm)?;
        let message = signed_part(&child.der)?;
        Some(self.algorithms.all.iter().any(|algorithm| {
            algorithm.signature_alg_id().as_ref() == signature_algorithm
                && algorithm.public_key_alg_id().as_ref() == key_algorithm
                && algorithm
                    .verify_signature(
                        key.subject_public_key.raw_bytes(),
                        message,
                        child.cert.signature.raw_bytes(),
                    )
                    .is_ok()
        }))
    }
}

/// A critical extension that nobody here looks at.
fn unknown_critical(cert: &Parsed) -> Option<ObjectIdentifier> {
    let known = [
        BasicConstraints::OID,
        KeyUsage::OID,
        ExtendedKeyUsage::OID,
        SubjectAltName::OID,
        NameConstraints::OID,
        CERTIFICATE_POLICIES,
    ];
    let extensions = cert.cert.tbs_certificate.extensions.as_deref().unwrap_or_default();
    extensions.iter().find(|e| e.critical && !known.contains(&e.extn_id)).map(|e| e.extn_id)
}

/// An algorithm identifier's contents, without the outer tag and length, as rustls keeps them.
fn contents(algorithm: &impl Encode) -> Option<Vec<u8>> {
    let der = algorithm.to_der().ok()?;
    let mut reader = SliceReader::new(&der).ok()?;
    let header = reader.peek_header().ok()?;
    let skip = usize::try_from(u32::from(header.encoded_len().ok()?)).ok()?;
    reader.tlv_bytes().ok()?.get(skip..).map(<[u8]>::to_vec)
}

/// The bytes of a certificate that its signature covers, as they were received.
fn signed_part(der: &[u8]) -> Option<&[u8]> {
    let mut reader = SliceReader::new(der).ok()?;
    let header = reader.peek_header().ok()?;
    reader.read_slice(header.encoded_len().ok()?).ok()?;
    reader.tlv_bytes().ok()
}

/// Holds a certificate to the name that was connected to.
///
/// Source: `pgtls_verify_peer_name_matches_certificate_guts` in fe-secure-openssl.c, PostgreSQL 15. A name
/// in the alternative names of the host's kind (DNS or address) shuts out the common name.
fn check_name(leaf: &Parsed, host: &str) -> Result<(), Refusal> {
    let address: Option<std::net::IpAddr> = host.parse().ok();
    let mut seen = Vec::new();
    let mut try_common_name = true;
    let names = match leaf.cert.tbs_certificate.get::<SubjectAltName>() {
        Ok(found) => found.map(|(_, names)| names.0).unwrap_or_default(),
        Err(error) => {
            return Err(Refusal::new(
                Cause::CertificateUnusable,
                CertificateError::BadEncoding,
                format!("the alternative names of the server's certificate cannot be read: {error}"),
            ));
        }
    };
    for name in &names {
        match name {
            GeneralName::DnsName(name) => {
                try_common_name &= address.is_some();
                if name_matches(name.as_str(), host) {
                    return Ok(());
                }
                seen.push(name.as_str().to_owned());
            }
            GeneralName::IpAddress(bytes) => {
                try_common_name &= address.is_none();
                let theirs = match bytes.as_bytes() {
                    four if four.len() == 4 => <[u8; 4]>::try_from(four).ok().map(std::net::IpAddr::from),
                    other => <[u8; 16]>::try_from(other).ok().map(std::net::IpAddr::from),
                };
                if theirs.is_some() && theirs == address {
                    return Ok(());
                }
                seen.push(theirs.map_or_else(|| "(a malformed address)".to_owned(), |a| a.to_string()));
            }
            _ => {}
        }
    }
    if let Some(name) = common_name(leaf).filter(|_| try_common_name) {
        if name_matches(&name, host) {
            return Ok(());
        }
        seen.push(name);
    }
    let presented = match seen.as_slice() {
        [] => "carries no name at all".to_owned(),
        names => format!("is for {}", names.join(", ")),
    };
    Err(Refusal::new(
        Cause::CertificateWrongName,
        CertificateError::NotValidForName,
        format!("the server's certificate {presented}, not for {host}"),
    ))
}

/// The subject's first common name.
fn common_name(leaf: &Parsed) -> Option<String> {
    let attribute = leaf
        .cert
        .tbs_certificate
        .subject
        .0
        .iter()
        .flat_map(|part| part.0.iter())
        .find(|attribute| attribute.oid == COMMON_NAME)?;
    let value = &attribute.value;
    match value.tag() {
        Tag::Utf8String => value.decode_as::<Utf8StringRef<'_>>().ok().map(|s| s.as_str().to_owned()),
        Tag::PrintableString => {
            value.decode_as::<PrintableStringRef<'_>>().ok().map(|s| s.as_str().to_owned())
        }
        Tag::Ia5String => value.decode_as::<Ia5StringRef<'_>>().ok().map(|s| s.as_str().to_owned()),
        Tag::TeletexString => value.decode_as::<TeletexStringRef<'_>>().ok().map(|s| s.as_str().to_owned()),
        _ => None,
    }
}

/// Whether a certificate's name fits the host; `*.` stands for exactly one label, the first.
///
/// Source: `pq_verify_peer_name_matches_certificate_name` and `wildcard_certificate_match`, fe-secure-common.c.
fn name_matches(pattern: &str, host: &str) -> bool {
    // A NUL inside is an attack on C's strings.
    if pattern.contains('\0') {
        return false;
    }
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(suffix), Some((label, rest))) => {
            !suffix.is_empty() && !label.is_empty() && suffix.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::name_matches;

    #[test]
    fn names_match_as_in_libpq() {
        for (pattern, host, expect) in [
            ("db.plant.example", "db.plant.example", true),
            ("DB.plant.Example", "db.PLANT.example", true),
            ("*.plant.example", "db.plant.example", true),
            ("*.plant.example", "a.db.plant.example", false),
            ("*.plant.example", "plant.example", false),
            ("*.plant.example", ".plant.example", false),
            ("*", "db", false),
            ("*.", "db.", false),
            ("d*.plant.example", "db.plant.example", false),
            ("db.plant.example", "db.plant.example.", false),
            ("db\0.evil.example", "db\0.evil.example", false),
            ("127.0.0.1", "127.0.0.1", true),
        ] {
            assert_eq!(name_matches(pattern, host), expect, "{pattern:?} for {host:?}");
        }
    }
}
