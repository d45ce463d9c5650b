//! The table of all settings: the one place where a setting is described.
//!
//! Flags, help texts, environment variables, TOML keys, defaults, parsers and the printed configuration
//! are made from it.

use super::environment::Surroundings;
use super::setting::{Assign, DefaultValue, Setting};
use super::{parsers, units};

/// The word that stands for an empty list where a list cannot be written empty.
pub const EMPTY_LIST: &str = "none";

/// Bound on the counts per peer, which only keeps slips of the keyboard out.
const MAX_COUNT: u32 = 1_000_000;
/// Each slot holds up to 1 MiB of memory.
const MAX_UPLOAD_SLOTS: u32 = 4096;
/// More attempts than this only multiply a dead origin's time-outs.
const MAX_ORIGIN_ATTEMPTS: u32 = 10;

fn set<T>(slot: &mut T, value: Result<T, String>) -> Result<(), String> {
    *slot = value?;
    Ok(())
}

fn push<T>(list: &mut Vec<T>, item: Result<T, String>) -> Result<(), String> {
    list.push(item?);
    Ok(())
}

const DURATION_REMEDY: &str = "write a duration with a unit, for example 500ms or 10s";
const RATE_REMEDY: &str = "write a rate with a unit, for example 50Mbit/s or 10MB/s, or `unlimited`";
const KEY_REMEDY: &str = "write NAME:KEY as in `trusted-public-keys` of nix.conf, \
                          for example cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
/// The key of the central cache.
const CENTRAL_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
const COUNT_REMEDY: &str = "write a whole number above zero";

/// Every setting, in the order in which it is printed.
pub static SETTINGS: &[Setting] = &[
    Setting {
        key: "state-dir",
        flag: true,
        value_name: "DIR",
        help: "Directory of blobs, index and node key",
        remedy: "write the path of a directory, for example /var/lib/p2p-cache",
        example: "/srv/p2p-cache",
        bad_example: "",
        default: DefaultValue::Computed(Surroundings::state_dir),
        assign: Assign::One(|c, text| set(&mut c.state_dir, parsers::path(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "http",
        flag: true,
        value_name: "ADDR:PORT",
        help: "Address for clients on this machine, such as Nix; port 0 takes any free port",
        remedy: "write ADDR:PORT, for example 127.0.0.1:5380 or [::1]:5380",
        example: "127.0.0.1:8080",
        bad_example: "localhost",
        default: DefaultValue::Text(&["127.0.0.1:5380"]),
        assign: Assign::One(|c, text| set(&mut c.http, parsers::socket_address(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "listen",
        flag: true,
        value_name: "MULTIADDR",
        help: "Address on which other nodes reach this one; repeatable, `none` for no address",
        remedy: "write /ip4/ADDR/tcp/PORT or /ip4/ADDR/udp/PORT/quic-v1, for example /ip4/0.0.0.0/tcp/5381",
        example: "/ip4/127.0.0.1/tcp/0",
        bad_example: "0.0.0.0:5381",
        default: DefaultValue::Text(&[
            "/ip4/0.0.0.0/tcp/5381",
            "/ip6/::/tcp/5381",
            "/ip4/0.0.0.0/udp/5381/quic-v1",
            "/ip6/::/udp/5381/quic-v1",
        ]),
        assign: Assign::Many {
            clear: |c| c.listen.clear(),
            push: |c, text| push(&mut c.listen, parsers::listen_address(text)),
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "peer",
        flag: true,
        live: true,
        value_name: "MULTIADDR",
        help: "Node to stay connected with; repeatable",
        remedy: "write the address after `peer=` in the other node's ready line, \
                 for example /ip4/192.0.2.7/tcp/5381",
        example: "/ip4/192.0.2.7/tcp/5381",
        bad_example: "192.0.2.7:5381",
        assign: Assign::Many {
            clear: |c| c.peers.clear(),
            push: |c, text| push(&mut c.peers, parsers::peer_address(text)),
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "origin",
        flag: true,
        value_name: "URL",
        help: "Upstream binary cache; repeatable, the first is preferred, `none` for no upstream",
        remedy: "write an http or https URL, for example https://cache.nixos.org",
        example: "https://cache.example.org/nix",
        bad_example: "cache.example.org",
        default: DefaultValue::Text(&["https://cache.nixos.org"]),
        assign: Assign::Many {
            clear: |c| c.origins.clear(),
            push: |c, text| push(&mut c.origins, parsers::origin_url(text)),
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "trusted-public-key",
        flag: true,
        live: true,
        value_name: "NAME:KEY",
        help: "Key of a cache: what it signed is taken from peers; what is given to them shared-public-keys say; repeatable",
        remedy: KEY_REMEDY,
        example: "example-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
        bad_example: "cache.nixos.org-1:short",
        default: DefaultValue::Text(&[CENTRAL_KEY]),
        assign: Assign::Many {
            clear: |c| c.trusted_public_keys.clear(),
            push: |c, text| push(&mut c.trusted_public_keys, parsers::public_key(text)),
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "share",
        flag: true,
        value_name: "none|lan|public",
        help: "How far blobs of this node may travel",
        remedy: "write none, lan or public",
        example: "public",
        bad_example: "everyone",
        default: DefaultValue::Text(&["lan"]),
        assign: Assign::One(|c, text| set(&mut c.share, parsers::share(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "shared-public-keys",
        live: true,
        value_name: "NAME:KEY",
        help: "Keys of public caches: only what one of them signed is given to other nodes; `none` for no key",
        remedy: KEY_REMEDY,
        example: "example-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
        bad_example: "cache.nixos.org-1",
        default: DefaultValue::Text(&[CENTRAL_KEY]),
        assign: Assign::Many {
            clear: |c| c.shared_public_keys.clear(),
            push: |c, text| push(&mut c.shared_public_keys, parsers::public_key(text)),
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "extra-shared-keys",
        flag: true,
        live: true,
        value_name: "NAME:KEY",
        help: "Key added to shared-public-keys: every node that share admits may have what it signed; repeatable",
        remedy: KEY_REMEDY,
        example: "example-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
        bad_example: "example-1:",
        assign: Assign::Many {
            clear: |c| c.extra_shared_keys.clear(),
            push: |c, text| push(&mut c.extra_shared_keys, parsers::public_key(text)),
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "publish",
        flag: true,
        live: true,
        value_name: "PATH",
        help: "Store path that is shared though no shared key has signed it, derivations too; repeatable",
        remedy: "write a store path or its hash, \
                 for example /nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12.1",
        example: "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12.1",
        bad_example: "hello-2.12.1",
        assign: Assign::Many {
            clear: |c| c.publish.clear(),
            push: |c, text| push(&mut c.publish, parsers::published_path(text)),
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "never-share",
        flag: true,
        live: true,
        value_name: "PATTERN",
        help: "Names of store paths that never leave this machine, whatever else is said of them; repeatable",
        remedy: "write a pattern with *, ? or [...] for what follows the hash of a store path, for example *-secrets*",
        example: "*-secrets*",
        bad_example: "/nix/store/*-secrets",
        assign: Assign::Many {
            clear: |c| c.never_share.clear(),
            push: |c, text| push(&mut c.never_share, parsers::name_pattern(text)),
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "metered",
        flag: true,
        help: "The connection is paid for by volume: upload and announce nothing, whatever share says",
        assign: Assign::Switch(|c, on| c.metered = on),
        ..Setting::SWITCH
    },
    Setting {
        key: "interfaces",
        value_name: "NAME",
        help: "Network interfaces on which other nodes are met; an empty list is all of them, origins are not affected",
        remedy: "write names as `ip link` shows them, for example enp1s0",
        example: "enp1s0",
        bad_example: "enp1s0/24",
        assign: Assign::Many {
            clear: |c| c.interfaces.clear(),
            push: |c, text| push(&mut c.interfaces, parsers::interface(text)),
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "no-mdns",
        flag: true,
        help: "Do not look for nodes on the local network",
        assign: Assign::Switch(|c, off| c.mdns = !off),
        ..Setting::SWITCH
    },
    Setting {
        key: "no-dht",
        flag: true,
        help: "Do not use the wide-area hash table",
        assign: Assign::Switch(|c, off| c.dht = !off),
        ..Setting::SWITCH
    },
    Setting {
        key: "max-store-size",
        flag: true,
        value_name: "SIZE",
        help: "Disk space for blobs; the least recently used ones make room",
        remedy: "write a size with a unit, for example 200MiB or 50GB, or `unlimited`",
        example: "200MiB",
        bad_example: "lots",
        default: DefaultValue::Text(&["50GiB"]),
        takes_integer: true,
        assign: Assign::One(|c, text| set(&mut c.max_store_size, units::parse_size(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "upload-rate",
        flag: true,
        live: true,
        value_name: "RATE",
        help: "Limit of all uploads to other nodes together; the nodes that are served have equal shares",
        remedy: "write a rate with a unit, for example 50Mbit/s or 10MB/s, or `unlimited`; \
                 to upload nothing set share to none",
        example: "50Mbit/s",
        bad_example: "fast",
        default: DefaultValue::Text(&["unlimited"]),
        assign: Assign::One(|c, text| set(&mut c.upload_rate, units::parse_rate(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "upload-rate-lan",
        flag: true,
        live: true,
        value_name: "RATE",
        help: "Limit of uploads to nodes of the local network, within upload-rate",
        remedy: RATE_REMEDY,
        example: "500Mbit/s",
        bad_example: "100",
        default: DefaultValue::Text(&["unlimited"]),
        assign: Assign::One(|c, text| set(&mut c.upload_rate_lan, units::parse_rate(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "upload-rate-public",
        flag: true,
        live: true,
        value_name: "RATE",
        help: "Limit of uploads to nodes of the wide area, within upload-rate; \
               half of it while a client of this node waits for a blob",
        remedy: RATE_REMEDY,
        example: "20Mbit/s",
        bad_example: "0B/s",
        default: DefaultValue::Text(&["unlimited"]),
        assign: Assign::One(|c, text| set(&mut c.upload_rate_public, units::parse_rate(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "nix-store",
        flag: true,
        value_name: "ROOT",
        help: "Directory that has nix/store and nix/var/nix/db below it: its store paths are a source, without a copy; \
               `none` leaves it alone",
        remedy: "write the path of a directory, for example /, or `none`",
        example: "/mnt",
        bad_example: "",
        default: DefaultValue::Text(&["/"]),
        assign: Assign::One(|c, text| set(&mut c.nix_store, parsers::path_or_none(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "hash-rate",
        flag: true,
        live: true,
        value_name: "RATE",
        help: "Limit of hashing store paths in the background, once each and not on battery, before they are offered; \
               a path that is asked for is hashed at once",
        remedy: RATE_REMEDY,
        example: "20MB/s",
        bad_example: "0B/s",
        default: DefaultValue::Text(&["200MB/s"]),
        assign: Assign::One(|c, text| set(&mut c.hash_rate, units::parse_rate(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "origin-connect-timeout",
        value_name: "DURATION",
        help: "Time for a connection to an origin",
        remedy: DURATION_REMEDY,
        example: "1s",
        bad_example: "soon",
        default: DefaultValue::Text(&["3s"]),
        assign: Assign::One(|c, text| set(&mut c.origin_connect_timeout, units::parse_duration(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "origin-first-byte-timeout",
        value_name: "DURATION",
        help: "Time until the first byte of an origin's answer, the connection included",
        remedy: DURATION_REMEDY,
        example: "6s",
        bad_example: "6",
        default: DefaultValue::Text(&["8s"]),
        assign: Assign::One(|c, text| set(&mut c.origin_first_byte_timeout, units::parse_duration(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "origin-progress-timeout",
        value_name: "DURATION",
        help: "Longest silence of an origin in mid-answer",
        remedy: DURATION_REMEDY,
        example: "20s",
        bad_example: "0s",
        default: DefaultValue::Text(&["10s"]),
        assign: Assign::One(|c, text| set(&mut c.origin_progress_timeout, units::parse_duration(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "origin-attempts",
        value_name: "COUNT",
        help: "How often a request to one origin is tried, the first time included (1 to 10)",
        remedy: "write a whole number from 1 to 10",
        example: "2",
        bad_example: "0",
        default: DefaultValue::Text(&["3"]),
        takes_integer: true,
        assign: Assign::One(|c, text| set(&mut c.origin_attempts, parsers::count(text, MAX_ORIGIN_ATTEMPTS))),
        ..Setting::PLAIN
    },
    Setting {
        key: "origin-down-memory",
        value_name: "DURATION",
        help: "How long an origin that failed is skipped",
        remedy: DURATION_REMEDY,
        example: "1min",
        bad_example: "forever",
        default: DefaultValue::Text(&["10s"]),
        assign: Assign::One(|c, text| set(&mut c.origin_down_memory, units::parse_duration(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "origin-missing-memory",
        value_name: "DURATION",
        help: "How long it is believed that no origin has a path or side file that none had; other nodes are asked each time",
        remedy: DURATION_REMEDY,
        example: "1s",
        bad_example: "never",
        default: DefaultValue::Text(&["20s"]),
        assign: Assign::One(|c, text| set(&mut c.origin_missing_memory, units::parse_duration(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "write-token-file",
        flag: true,
        live: true,
        value_name: "FILE",
        help: "File with the token that uploads must show, from this machine and from others; \
               without one uploads are taken from this machine only, from everybody on it",
        remedy: "write the path of a file with 16 to 1024 characters, such as the output of `openssl rand -hex 32`, or `none`",
        example: "/etc/p2p-cache/write-token",
        bad_example: "",
        default: DefaultValue::Text(&["none"]),
        assign: Assign::One(|c, text| set(&mut c.write_token_file, parsers::path_or_none(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "allowed-hosts",
        live: true,
        value_name: "NAME",
        help: "Names by which clients on this machine may ask for the node, beside localhost, addresses and its host name",
        remedy: "write host names without a port, for example cache.example.org",
        example: "cache.example.org",
        bad_example: "http://cache.example.org",
        assign: Assign::Many {
            clear: |c| c.allowed_hosts.clear(),
            push: |c, text| push(&mut c.allowed_hosts, parsers::host_name(text)),
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "upload-slots",
        value_name: "COUNT",
        help: "Extents sent to other nodes at the same time; each holds up to 1 MiB of memory",
        remedy: "write a whole number from 1 to 4096",
        example: "8",
        bad_example: "5000",
        default: DefaultValue::Text(&["16"]),
        takes_integer: true,
        assign: Assign::One(|c, text| set(&mut c.upload_slots, parsers::count(text, MAX_UPLOAD_SLOTS))),
        ..Setting::PLAIN
    },
    Setting {
        key: "requests-per-second-per-peer",
        value_name: "COUNT",
        help: "Requests per second that one node may make",
        remedy: COUNT_REMEDY,
        example: "100",
        bad_example: "-1",
        default: DefaultValue::Text(&["2000"]),
        takes_integer: true,
        assign: Assign::One(|c, text| {
            set(&mut c.requests_per_second_per_peer, parsers::count(text, MAX_COUNT))
        }),
        ..Setting::PLAIN
    },
    Setting {
        key: "failed-lookups-per-minute-per-peer",
        value_name: "COUNT",
        help: "Look-ups of blobs that are not held, per minute, that one node may make",
        remedy: COUNT_REMEDY,
        example: "60",
        bad_example: "1.5",
        default: DefaultValue::Text(&["3000"]),
        takes_integer: true,
        assign: Assign::One(|c, text| {
            set(&mut c.failed_lookups_per_minute_per_peer, parsers::count(text, MAX_COUNT))
        }),
        ..Setting::PLAIN
    },
    Setting {
        key: "failed-lookups-per-minute-per-network",
        value_name: "COUNT",
        help: "The same for all nodes of one network (IPv4 /24, IPv6 /48; one address in the local network) together",
        remedy: COUNT_REMEDY,
        example: "600",
        bad_example: "many",
        default: DefaultValue::Text(&["12000"]),
        takes_integer: true,
        assign: Assign::One(|c, text| {
            set(&mut c.failed_lookups_per_minute_per_network, parsers::count(text, MAX_COUNT))
        }),
        ..Setting::PLAIN
    },
    Setting {
        key: "allowed-peers",
        value_name: "PEERID",
        help: "Peer ids of the nodes that may connect; an empty list admits every node",
        remedy: "write the id that `p2p-cache id` prints on that node",
        example: "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp",
        bad_example: "laptop",
        assign: Assign::Many {
            clear: |c| c.allowed_peers = None,
            push: |c, text| push(c.allowed_peers.get_or_insert_default(), parsers::peer_id(text)),
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "swarm-salt",
        value_name: "TEXT",
        help: "Only nodes with the same salt find each other's blobs in the wide area",
        remedy: "write 1 to 64 bytes of text, the same on every node",
        example: "our-office",
        bad_example: "",
        default: DefaultValue::Text(&["p2p-cache"]),
        assign: Assign::One(|c, text| set(&mut c.swarm_salt, parsers::salt(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "log",
        live: true,
        value_name: "FILTER",
        help: "Which events are logged to standard error",
        remedy: "write a level (error, warn, info, debug, trace) or target=level pairs, \
                 for example info,p2p_cache=debug",
        example: "warn,p2p_cache=debug",
        bad_example: "p2p_cache=loudest",
        default: DefaultValue::Text(&["info,libp2p_kad=error"]),
        assign: Assign::One(|c, text| set(&mut c.log, parsers::log_filter(text))),
        ..Setting::PLAIN
    },
    Setting {
        key: "log-format",
        value_name: "auto|human|json",
        help: "How events are logged: as text (in the journal of systemd with their priority), or as one JSON object a line",
        remedy: "write auto, human or json",
        example: "json",
        bad_example: "xml",
        default: DefaultValue::Text(&["auto"]),
        assign: Assign::One(|c, text| set(&mut c.log_format, parsers::log_format(text))),
        ..Setting::PLAIN
    },
];
