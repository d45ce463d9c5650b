//! The `/tls/1.0.0` upgrade: what libp2p-tls speaks on the wire, with AES-GCM before ChaCha20, which costs a
//! processor with AES instructions a quarter, with fewer copies of each byte, and without a log of session keys.

use std::{net::Ipv4Addr, sync::Arc};

use futures::{
    AsyncRead, AsyncWrite, FutureExt,
    future::{BoxFuture, Either},
};
use libp2p::{
    PeerId,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    identity::Keypair,
};
use libp2p_tls::certificate;
use rustls::{
    ClientConfig, CommonState, ServerConfig, SupportedCipherSuite,
    client::{Resumption, UnbufferedClientConnection},
    crypto::{
        CryptoProvider,
        aws_lc_rs::{
            cipher_suite::{
                TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
            },
            default_provider,
            sign::any_ecdsa_type,
        },
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::{NoServerSessionStorage, UnbufferedServerConnection},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::{records::Records, verifier::PeerCertificates};

const PROTOCOL: &str = "/tls/1.0.0";
const ALPN: &[u8] = b"libp2p";
/// In order of preference.
const CIPHER_SUITES: [SupportedCipherSuite; 3] =
    [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];

/// Why a connection could not be secured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot make a TLS certificate: {0}")]
    Certificate(#[from] certificate::GenError),
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[from] std::io::Error),
    #[error("the peer's certificate does not name a peer: {0}")]
    Peer(#[from] certificate::ParseError),
    #[error("the peer presented no certificate")]
    NoCertificate,
}

/// The upgrade, for both sides of a connection.
#[derive(Clone)]
pub(crate) struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// One certificate for all connections, made afresh at each start.
    pub(crate) fn new(keypair: &Keypair) -> Result<Self, TlsError> {
        let (certificate, key) = certificate::generate(keypair)?;
        Self::with(certificate, &key)
    }

    fn with(certificate: CertificateDer<'static>, key: &PrivateKeyDer<'_>) -> Result<Self, TlsError> {
        let certified = CertifiedKey::new(vec![certificate], any_ecdsa_type(key)?);
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let provider =
            Arc::new(CryptoProvider { cipher_suites: CIPHER_SUITES.to_vec(), ..default_provider() });
        let peers = Arc::new(PeerCertificates);

        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::clone(&peers) as _)
            .with_cert_resolver(Arc::clone(&resolver) as _);
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Others offer ChaCha20 first.
        server.ignore_client_order = true;
        // Sessions are not resumed: all peers have the same name here, connections are few and last long.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(peers)
            .with_client_cert_resolver(resolver);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

impl Tls {
    #[cfg(test)]
    pub(super) fn server_session(&self) -> Result<UnbufferedServerConnection, rustls::Error> {
        UnbufferedServerConnection::new(Arc::clone(&self.server))
    }
}

impl UpgradeInfo for Tls {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

type TlsStream<S> = Either<Records<S, UnbufferedServerConnection>, Records<S, UnbufferedClientConnection>>;
type Secured<S> = (PeerId, TlsStream<S>);

impl<C> InboundConnectionUpgrade<C> for Tls
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Secured<C>;
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let session = UnbufferedServerConnection::new(self.server)?;
            let records = Records::establish(socket, session).await?;
            Ok((peer_of(records.session())?, Either::Left(records)))
        }
        .boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for Tls
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Secured<C>;
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            // The specification wants no name to be indicated; an address never is.
            let nameless = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let session = UnbufferedClientConnection::new(self.client, nameless)?;
            let records = Records::establish(socket, session).await?;
            Ok((peer_of(records.session())?, Either::Right(records)))
        }
        .boxed()
    }
}

/// Who is at the other end. That it is who was dialled is checked by the transport's user, who knows.
fn peer_of(session: &CommonState) -> Result<PeerId, TlsError> {
    let certificates = session.peer_certificates().unwrap_or_default();
    // The verifier has seen to it that there is no second one.
    let certificate = certificates.first().ok_or(TlsError::NoCertificate)?;
    Ok(certificate::parse(certificate)?.peer_id())
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt};
    use libp2p_tls::Config as Stock;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    type Pipe = tokio_util::compat::Compat<tokio::io::DuplexStream>;

    fn pipe() -> (Pipe, Pipe) {
        let (a, b) = tokio::io::duplex(64 * 1024);
        (a.compat(), b.compat())
    }

    #[tokio::test]
    async fn aes_is_chosen_even_with_a_peer_that_prefers_chacha20() {
        let (ours, theirs) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let (a, b) = pipe();
        let dial = Stock::new(&theirs).unwrap().upgrade_outbound(b, PROTOCOL);
        let (inbound, outbound) = futures::join!(Tls::new(&ours).unwrap().upgrade_inbound(a, PROTOCOL), dial);
        let (peer, stream) = inbound.unwrap();
        assert_eq!(peer, theirs.public().to_peer_id());
        assert_eq!(outbound.unwrap().0, ours.public().to_peer_id());
        let Either::Left(records) = stream else { panic!("we listened") };
        assert_eq!(records.session().negotiated_cipher_suite(), Some(TLS13_AES_128_GCM_SHA256));
    }

    #[tokio::test]
    async fn a_certificate_without_its_key_convinces_nobody() {
        let (honest, thief) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let (stolen, _) = certificate::generate(&honest).unwrap();
        let (_, key) = certificate::generate(&thief).unwrap();
        let thief = Tls::with(stolen, &key).unwrap();
        let honest = Tls::new(&honest).unwrap();

        let (a, b) = pipe();
        let (server, client) = futures::join!(
            thief.clone().upgrade_inbound(a, PROTOCOL),
            honest.clone().upgrade_outbound(b, PROTOCOL)
        );
        assert!(matches!(client, Err(TlsError::Handshake(_))) && server.is_err());

        let (a, b) = pipe();
        let dial = async {
            // The client has done its part before it hears that it was turned away.
            let (_, mut stream) = thief.upgrade_outbound(b, PROTOCOL).await?;
            stream.write_all(b"hello").await?;
            stream.flush().await?;
            let read = stream.read(&mut [0]).await?;
            Ok::<usize, TlsError>(read)
        };
        let (server, client) = futures::join!(honest.upgrade_inbound(a, PROTOCOL), dial);
        assert!(matches!(server, Err(TlsError::Handshake(_))));
        assert!(!matches!(client, Ok(1..)));
    }

    #[test]
    fn session_keys_are_logged_nowhere() {
        let tls = Tls::new(&Keypair::generate_ed25519()).unwrap();
        for label in ["CLIENT_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0", "EXPORTER_SECRET"] {
            assert!(!tls.server.key_log.will_log(label) && !tls.client.key_log.will_log(label));
        }
    }
}
