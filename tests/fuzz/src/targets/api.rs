//! What travels: keys and records, and the names in certificates.

use api::{key::Key, record::Record, token::Token};
use daemon::{spiffe::SpiffeId, tls::Certificate};
use rcgen::{CertificateSigningRequestParams, PublicKeyData as _};
use rustls::pki_types::CertificateDer;

/// A key that is one is written as it was read.
pub(super) fn key(input: &[u8]) {
    if let Ok(key) = Key::parse(input) {
        assert_eq!(key.to_string().as_bytes(), input, "a key has one spelling");
    }
}

/// A key, a line feed, a value. A record that is one reads back from its one encoding.
pub(super) fn record(input: &[u8]) {
    let Some(at) = input.iter().position(|byte| *byte == b'\n') else { return };
    let (key, value) = (&input[..at], &input[at + 1..]);
    let Ok(key) = Key::parse(key) else { return };
    if let Ok(record) = Record::decode(&key, value) {
        let bytes = record.encode();
        let again = Record::decode(&key, &bytes).expect("what we encode, we read");
        assert_eq!(again, record, "a record reads back as it was");
        assert_eq!(again.encode(), bytes, "a record has one encoding");
    }
}

/// An ID that is one is written as it was read, but for the case of its UUID.
pub(super) fn spiffe_id(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(id) = text.parse::<SpiffeId>() {
        let written = id.to_string();
        assert!(written.eq_ignore_ascii_case(text), "{text} is another ID than {written}");
        assert_eq!(written.parse(), Ok(id), "an ID reads back as it was");
    }
}

/// DER of a certificate, as a stranger shows it before anything is verified.
pub(super) fn certificate(input: &[u8]) {
    if let Ok(certificate) = Certificate::read(&CertificateDer::from(input)) {
        let described = certificate.describe();
        assert!(
            !described.contains(['\n', '\r', '\u{1b}']),
            "a stranger writes no line of our log: {described:?}"
        );
        std::hint::black_box(certificate.due_for_renewal(std::time::UNIX_EPOCH));
        if let Ok(id) = certificate.id {
            spiffe_id(id.to_string().as_bytes());
        }
    }
}

/// PEM of a certificate request, as a node sends it to be enrolled.
pub(super) fn certificate_request(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(request) = CertificateSigningRequestParams::from_pem(text) {
        request.public_key.der_bytes();
    }
}

/// A token, as it is pasted.
pub(super) fn token(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string().parse(), Ok(token.clone()), "a token is what was pasted");
        assert!(!token.endpoints.is_empty() && !token.ca.is_empty(), "it says where, and by which CA");
    }
}
