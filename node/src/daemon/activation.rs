//! The socket on which systemd listens for us, before we run and while we restart.

use std::io;
use std::net::TcpListener;

use listenfd::ListenFd;

/// The socket that the service manager hands over, if it does (`LISTEN_FDS`). Call it before there are threads: it takes
/// the variables out of the environment, so that no child believes them.
///
/// # Errors
/// There are several, or it is no TCP socket.
pub fn inherited_listener() -> io::Result<Option<TcpListener>> {
    take(&mut ListenFd::from_env())
}

fn take(sockets: &mut ListenFd) -> io::Result<Option<TcpListener>> {
    let remedy = "let p2p-cache.socket have exactly one ListenStream=, an address and a port";
    if sockets.len() > 1 {
        let message =
            format!("the service manager hands over {} sockets, and one is needed; {remedy}", sockets.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let taken = sockets.take_tcp_listener(0);
    taken.map_err(|error| io::Error::new(error.kind(), format!("{error}; {remedy}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_service_manager_there_is_no_socket() {
        assert!(take(&mut ListenFd::empty()).unwrap().is_none());
    }
}
