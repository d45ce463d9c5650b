//! Whether the node runs, and whether it is the node that answers.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use p2p_cache_http_gateway::Status;

use super::Finding;
use crate::cli::client::NodeClient;
use crate::cli::error::CliError;
use crate::cli::status;

/// A node answers in milliseconds.
const SILENCE: Duration = Duration::from_secs(5);
const CHECK: &str = "node";

/// What stands behind the address of the node.
pub(super) enum Node {
    Runs(Box<Status>, String),
    Finding(Finding),
}

impl Node {
    pub(super) async fn look(http: SocketAddr) -> Self {
        let client = match NodeClient::new(http, Some(SILENCE)) {
            Ok(client) => client,
            Err(error) => {
                return Self::Finding(Finding::fail(CHECK, error.to_string(), "give --http ADDR:PORT"));
            }
        };
        let asked = tokio::time::timeout(SILENCE, status::ask(&client)).await;
        match asked {
            Ok(Ok(status)) => Self::Runs(Box::new(status), client.base().to_owned()),
            Ok(Err(CliError::NoNode { url, reason })) => Self::Finding(not_running(http, &url, &reason)),
            Ok(Err(error)) => Self::Finding(other_program(http, client.base(), &error.message())),
            Err(_) => Self::Finding(Finding::fail(
                CHECK,
                format!("what listens on {} does not answer", client.base()),
                "look at the log of the node (journalctl -u p2p-cache); restart it if it hangs",
            )),
        }
    }

    pub(super) fn status(&self) -> Option<&Status> {
        match self {
            Self::Runs(status, _) => Some(status),
            Self::Finding(_) => None,
        }
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        vec![match self {
            Self::Runs(status, url) => {
                Finding::ok(CHECK, format!("version {} answers on {url}", status.version))
            }
            Self::Finding(finding) => finding.clone(),
        }]
    }
}

fn not_running(http: SocketAddr, url: &str, reason: &str) -> Finding {
    let start = "start it: `systemctl start p2p-cache` for the service, `p2p-cache serve` without one";
    match TcpListener::bind(http) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => other_program(http, url, reason),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Finding::fail(
            CHECK,
            format!("nothing answers on {url}, and this machine does not have that address"),
            "set `http` to an address of this machine, for example 127.0.0.1:5380",
        ),
        Err(_) | Ok(_) => Finding::fail(CHECK, format!("nothing answers on {url} ({reason})"), start),
    }
}

fn other_program(http: SocketAddr, url: &str, said: &str) -> Finding {
    let port = http.port();
    Finding::fail(
        CHECK,
        format!("something else has the port: {url} does not answer as a node does ({said})"),
        format!("`ss -ltnp 'sport = :{port}'` names the program; stop it, or set `http` to another port"),
    )
}
