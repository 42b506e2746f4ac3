//! TLS between a dump and a page server. Both ends show a certificate, as in the reference.

use anyhow::{Context, Result, ensure};
use criu_config::Options;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the reference looks for what no option names.
const AUTHORITY: &str = "/etc/pki/CA/cacert.pem";
const REVOKED: &str = "/etc/pki/CA/cacrl.pem";
const CERTIFICATE: &str = "/etc/pki/criu/cert.pem";
const KEY: &str = "/etc/pki/criu/private/key.pem";

/// An encrypted stream. Dropped, it ends the session in order.
pub struct Tls<S: Read + Write> {
    connection: Connection,
    stream: S,
    /// Others hold the stream too, so that its end does not come.
    stays: bool,
}

/// The connecting end; `name` is who must be at the other one.
pub fn client<S: Read + Write>(options: &Options, stream: S, name: &str, stays: bool) -> Result<Tls<S>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(authorities(options)?), provider.clone())
            .with_crls(revoked(options)?)
            .build()
            .context("--tls-cacert, --tls-cacrl")?;
    let verifier = Arc::new(Peer { verifier, any_name: options.tls_no_cn_verify });
    let (chain, key) = identity(options)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous() // no more than --tls-no-cn-verify asks for
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .context("--tls-cert, --tls-key")?;
    // Without a name to compare, any will do.
    let name = ServerName::try_from(name.to_owned()).or_else(|error| match options.tls_no_cn_verify {
        true => ServerName::try_from("page-server"),
        false => Err(error),
    });
    let connection = ClientConnection::new(Arc::new(config), name.context("--address")?)?;
    handshake(connection.into(), stream, stays)
}

/// The accepting end.
pub fn server<S: Read + Write>(options: &Options, stream: S, stays: bool) -> Result<Tls<S>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(options)?), provider.clone())
            .with_crls(revoked(options)?)
            .build()
            .context("--tls-cacert, --tls-cacrl")?;
    let (chain, key) = identity(options)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("--tls-cert, --tls-key")?;
    // There is one session only, and a client that knows nothing of tickets takes them for an answer (CRIU 4.2).
    config.send_tls13_tickets = 0;
    handshake(ServerConnection::new(Arc::new(config))?.into(), stream, stays)
}

fn handshake<S: Read + Write>(connection: Connection, stream: S, stays: bool) -> Result<Tls<S>> {
    let mut tls = Tls { connection, stream, stays };
    while tls.connection.is_handshaking() {
        tls.connection.complete_io(&mut tls.stream).context("--tls: the handshake failed")?;
    }
    Ok(tls)
}

fn file(option: Option<&PathBuf>, default: &str) -> PathBuf {
    option.cloned().unwrap_or_else(|| default.into())
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.with_context(|| format!("{option} {}", path.display()))?;
    ensure!(!found.is_empty(), "{option} {}: no certificate in it", path.display());
    Ok(found)
}

fn authorities(options: &Options) -> Result<RootCertStore> {
    let path = file(options.tls_cacert.as_ref(), AUTHORITY);
    let mut store = RootCertStore::empty();
    for certificate in certificates("--tls-cacert", &path)? {
        store.add(certificate).with_context(|| format!("--tls-cacert {}", path.display()))?;
    }
    Ok(store)
}

fn revoked(options: &Options) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let path = file(options.tls_cacrl.as_ref(), REVOKED);
    if options.tls_cacrl.is_none() && !path.exists() {
        return Ok(Vec::new());
    }
    let lists = CertificateRevocationListDer::pem_file_iter(&path).and_then(Iterator::collect);
    lists.with_context(|| format!("--tls-cacrl {}", path.display()))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(options: &Options) -> Result<Identity> {
    let chain = certificates("--tls-cert", &file(options.tls_cert.as_ref(), CERTIFICATE))?;
    let path = file(options.tls_key.as_ref(), KEY);
    let key = PrivateKeyDer::from_pem_file(&path);
    Ok((chain, key.with_context(|| format!("--tls-key {}", path.display()))?))
}

/// Checks a server's certificate, its name only if that is wanted.
#[derive(Debug)]
struct Peer {
    verifier: Arc<WebPkiServerVerifier>,
    any_name: bool,
}

impl ServerCertVerifier for Peer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is checked last, when all else is in order.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

impl<S: Read + Write> Tls<S> {
    fn send(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.stream)?;
        }
        Ok(())
    }
}

impl<S: Read + Write> Read for Tls<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.send()?;
        while self.connection.wants_read() {
            if self.connection.complete_io(&mut self.stream)?.0 == 0 {
                break;
            }
        }
        self.connection.reader().read(buffer)
    }
}

impl<S: Read + Write> Write for Tls<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.connection.writer().write(buffer)?;
        self.send()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

impl<S: Read + Write> Drop for Tls<S> {
    fn drop(&mut self) {
        self.connection.send_close_notify();
        // The other end may be gone: then there is nobody to tell.
        if self.flush().is_ok() && !self.stays {
            // A socket closed with something unread resets the connection before the other end has read all.
            let _ = io::copy(self, &mut io::sink());
        }
    }
}
