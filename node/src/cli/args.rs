//! The command line: commands, arguments, help.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use super::flags::{Client, Everything, SettingFlags, State, Store};
use crate::config::{SETTINGS, Setting};

/// Opt-in peer-to-peer artifact distribution.
///
/// Answers the Nix binary cache protocol on this machine and takes what it is asked for from its own disk,
/// from other nodes or from an origin, whichever is soonest, verifying every byte.
#[derive(Debug, Parser)]
#[command(name = "p2p-cache", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  p2p-cache serve                 start a node with built-in settings
  p2p-cache status                what the node on this machine does
  nix build --option extra-substituters http://127.0.0.1:5380 nixpkgs#hello

Exit codes: 0 success, 64 wrong command line or configuration, 1 anything else.")]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the node until it is told to stop
    #[command(after_help = "Examples:
  p2p-cache serve
  p2p-cache serve --share none --max-store-size 200GiB
  p2p-cache serve --no-mdns --peer /ip4/192.0.2.7/tcp/5381 --upload-rate 50Mbit/s
  p2p-cache serve --origin https://cache.example.org --origin https://cache.nixos.org")]
    Serve(ServeArgs),
    /// Show what the running node does
    #[command(after_help = "Examples:
  p2p-cache status
  p2p-cache status --watch                again each second, until Ctrl-C
  p2p-cache status --json | jq .totals")]
    Status(StatusArgs),
    /// Look for the usual faults of node, Nix and network, and say how to mend each
    #[command(after_help = "Examples:
  p2p-cache doctor
  p2p-cache doctor --json | jq '.findings[] | select(.level != \"ok\")'

Exits with 1 when something is broken; a warning is not. Changes nothing.")]
    Doctor(DoctorArgs),
    /// Make the running node read its configuration again, without dropping a transfer
    #[command(after_help = "Examples:
  p2p-cache reload
  systemctl reload p2p-cache

Upload and hash rates, peers, keys, published and excluded paths and the log filter change at once; other settings that
have changed are named, and need a restart. A faulty configuration changes nothing. The node reads the configuration
file, the environment and the flags that it was started with.")]
    Reload(ReloadArgs),
    /// Store a file in the running node, and share it
    #[command(after_help = "Examples:
  p2p-cache put image.tar.zst               share it as far as the node's `share` setting allows
  p2p-cache put --private core.dump         keep it on this node
  p2p-cache put --json big.iso | jq -r .sha256")]
    Put(PutArgs),
    /// Fetch a blob through the running node, verified
    #[command(after_help = "Examples:
  p2p-cache get sha256:7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730 -o image.tar.zst
  p2p-cache get blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262 | tar x
  p2p-cache get sha256-fYZelZskZpGMmGOvypQtD7idfJrAyZuvw3SVBN7ZdzA= -o image.tar.zst")]
    Get(GetArgs),
    /// Keep blobs, however much room others need
    #[command(after_help = "Examples:
  p2p-cache pin sha256:7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730
  p2p-cache pin /nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12.1

They must be on this machine. Of what only the Nix store has a copy is made, which stays when Nix collects the path.")]
    Pin(PinArgs),
    /// Let pinned blobs be evicted again
    #[command(after_help = "Examples:
  p2p-cache unpin sha256:7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730")]
    Unpin(PinArgs),
    /// Hash every stored blob again; bad ones are removed (the node must not run)
    #[command(after_help = "Examples:
  p2p-cache verify
  p2p-cache verify --state-dir /var/lib/p2p-cache --json

Exits with 1 when a blob was bad.")]
    Verify(VerifyArgs),
    /// Remove left-overs and shrink the store to its limit (the node must not run)
    #[command(after_help = "Examples:
  p2p-cache gc
  p2p-cache gc --max-store-size 10GiB")]
    Gc(GcArgs),
    /// Print the effective configuration and where each value came from
    #[command(after_help = "Examples:
  p2p-cache config
  p2p-cache config --check --config ./p2p-cache.toml
  P2P_CACHE_SHARE=none p2p-cache config --json

The printed lines are valid TOML: they can be put into a configuration file.")]
    Config(ConfigArgs),
    /// Print the peer id of this node
    #[command(after_help = "Examples:
  p2p-cache id
  p2p-cache id --create --state-dir /var/lib/p2p-cache")]
    Id(IdArgs),
    /// Write what packages install beside the program
    #[command(hide = true)]
    Generate(GenerateArgs),
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) settings: SettingFlags<Everything>,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print the status as JSON, as /api/v1/status answers it
    #[arg(long)]
    pub(super) json: bool,
    /// Show it again each second until Ctrl-C; with --json one line each time
    #[arg(short, long)]
    pub(super) watch: bool,
    #[command(flatten)]
    pub(super) settings: SettingFlags<Client>,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print the findings as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) settings: SettingFlags<Everything>,
}

#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    /// Print the keys of the settings that have changed as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) settings: SettingFlags<Client>,
}

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// The file to store
    pub(super) file: PathBuf,
    /// Do not share the blob with other nodes
    #[arg(long)]
    pub(super) private: bool,
    /// Print the digests as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) settings: SettingFlags<Client>,
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// sha256:HEX, sha256:NIX32, sha256-BASE64 or blake3:HEX
    pub(super) digest: String,
    /// Write to FILE, which appears only when it is whole and verified; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: SettingFlags<Client>,
}

#[derive(Debug, Args)]
pub(super) struct PinArgs {
    /// sha256:HEX, sha256:NIX32, sha256-BASE64 or blake3:HEX; or a store path, for its NAR
    #[arg(required = true, value_name = "DIGEST")]
    pub(super) names: Vec<String>,
    #[command(flatten)]
    pub(super) settings: SettingFlags<Client>,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Print the report as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) settings: SettingFlags<State>,
}

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Print the report as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) settings: SettingFlags<Store>,
}

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Only check: print `ok`, or every fault and exit with 64
    #[arg(long)]
    pub(super) check: bool,
    /// Print the configuration as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) settings: SettingFlags<Everything>,
}

#[derive(Debug, Args)]
pub(super) struct IdArgs {
    /// Make the node key when there is none yet
    #[arg(long)]
    pub(super) create: bool,
    /// Print the id as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) settings: SettingFlags<State>,
}

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// What to write
    pub(super) what: Generated,
    /// Where to write it
    pub(super) directory: PathBuf,
}

/// Files that are made from the command line and the settings.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Generated {
    /// Completions for bash, fish and zsh
    Completions,
    /// Manual pages
    Man,
    /// An example configuration file
    Config,
}

/// The command line as clap parses it; `serve --help` and `config --help` list the settings without a flag.
pub(super) fn command() -> clap::Command {
    ["serve", "config"].into_iter().fold(Cli::command(), |command, name| {
        command.mut_subcommand(name, |subcommand| {
            let examples = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            subcommand.after_long_help(format!("{}\n\n{examples}", settings_without_flag()))
        })
    })
}

fn settings_without_flag() -> String {
    let mut text = "Every setting is also a key of the TOML file (KEY = VALUE) and a variable of the environment \
                    (P2P_CACHE_KEY, with _ for -; lists separated by commas or spaces). A flag beats a variable, a \
                    variable beats the file.\n\nSettings that have no flag:"
        .to_owned();
    for setting in SETTINGS.iter().filter(|setting| !setting.flag) {
        text.push_str(&format!(
            "\n  {} = {}\n          {}",
            setting.key,
            setting.value_name,
            describe(setting)
        ));
    }
    text
}

/// The help of a setting with its default and its variable.
pub(super) fn describe(setting: &Setting) -> String {
    let default = match setting.default {
        crate::config::DefaultValue::Text([]) => "none".to_owned(),
        crate::config::DefaultValue::Text(texts) => texts.join(" "),
        crate::config::DefaultValue::Computed(_) => {
            "$STATE_DIRECTORY, for root /var/lib/p2p-cache, else ~/.local/state/p2p-cache".to_owned()
        }
    };
    format!("{} [default: {default}] [env: {}]", setting.help, setting.variable())
}
