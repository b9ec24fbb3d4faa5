//! Certificates for loopback, and the CAs that nobody knows.

use std::sync::Arc;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::DOMAIN;

/// Who a server says it is.
pub(crate) struct Identity {
    pub(crate) ca_pem: String,
    pub(crate) acceptor: TlsAcceptor,
}

/// Who takes connections: the store, or somebody who says that he is.
#[derive(Clone)]
pub(crate) struct Acceptors {
    pub(crate) own: TlsAcceptor,
    pub(crate) stranger: TlsAcceptor,
}

impl Identity {
    pub(crate) fn new() -> Result<Identity> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "testbed CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_pem = ca.self_signed(&ca_key)?.pem();

        let key = KeyPair::generate()?;
        let names = [
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
            "localhost".to_owned(),
            DOMAIN.to_owned(),
            format!("*.{DOMAIN}"),
        ];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &Issuer::new(ca, ca_key))?;

        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        Ok(Identity { ca_pem, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}
