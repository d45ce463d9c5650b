//! Another configuration for a node that runs. What can change without losing a transfer changes at once; what cannot is
//! named, and waits for a restart.

use p2p_cache_discovery::Network;
use p2p_cache_http_gateway::{AccessControl, Reloaded};
use p2p_cache_protocol::TrustedKeys;
use tokio::sync::Mutex;

use super::{sharing_rules, upload_limits, web};
use crate::artifacts::NarInfos;
use crate::config::{Config, Effective, Loaded, Reader};
use crate::key_ring::KeyRing;
use crate::logging::LogControl;
use crate::nix_store::NixStore;
use crate::peers::UploadControl;
use crate::sharing::SharingPolicy;

/// The setting that names a file, which is read again, too.
const TOKEN_FILE: &str = "write-token-file";

/// What a node is started with.
#[derive(Debug)]
pub struct Startup {
    /// The configuration.
    pub loaded: Loaded,
    /// Reads it again.
    pub reader: Reader,
    /// Changes which events are logged.
    pub log: LogControl,
}

/// The parts of a running node that take other settings.
pub(super) struct Live {
    pub(super) network: Network,
    pub(super) nix: NixStore,
    pub(super) narinfos: NarInfos,
    pub(super) policy: std::sync::Arc<SharingPolicy>,
    pub(super) uploads: UploadControl,
    /// Of whom uploads to the gateway are taken.
    pub(super) accepted_keys: KeyRing,
    pub(super) access: AccessControl,
}

/// Reads the configuration again and applies it. One at a time.
pub(super) struct Reloader {
    reader: Reader,
    log: LogControl,
    live: Live,
    in_force: Mutex<InForce>,
}

/// The configuration that holds now: parts of it are of the start, parts of the last time that it was read.
struct InForce {
    config: Config,
    values: Vec<Effective>,
}

impl Reloader {
    pub(super) fn new(startup: Startup, live: Live) -> Self {
        let Startup { loaded: Loaded { config, values, .. }, reader, log } = startup;
        Self { reader, log, live, in_force: Mutex::new(InForce { config, values }) }
    }

    /// What was changed. An error names every fault, and nothing was changed then. Both are logged.
    pub(super) async fn reload(&self) -> Result<Reloaded, String> {
        let mut in_force = self.in_force.lock().await;
        let outcome = match self.read().await {
            Ok(loaded) => self.apply(&mut in_force, loaded).await,
            Err(faults) => Err(faults),
        };
        match &outcome {
            Ok(Reloaded { applied, needs_restart }) => {
                tracing::info!(?applied, "the configuration was read again");
                if !needs_restart.is_empty() {
                    tracing::warn!(?needs_restart, "settings have changed that hold only after a restart");
                }
            }
            // A line of the log for each fault.
            Err(faults) => faults.lines().for_each(|line| {
                tracing::error!(
                    fault = line.trim(),
                    "the configuration was read again, and nothing was changed"
                );
            }),
        }
        outcome
    }

    async fn read(&self) -> Result<Loaded, String> {
        let reader = self.reader.clone();
        match tokio::task::spawn_blocking(move || reader.read()).await {
            Ok(read) => read.map_err(|faults| faults.to_string()),
            Err(error) => Err(format!("reading it failed: {error}")),
        }
    }

    async fn apply(&self, in_force: &mut InForce, loaded: Loaded) -> Result<Reloaded, String> {
        // What can refuse goes first.
        let access = web::access(&loaded.config).await.map_err(|error| error.to_string())?;
        if has_changed(in_force, &loaded, &["peer"]) {
            let peers = loaded.config.peers.clone();
            self.live.network.set_static_peers(peers).await.map_err(|error| error.to_string())?;
        }
        let rates = ["upload-rate", "upload-rate-lan", "upload-rate-public"];
        let other_rates = has_changed(in_force, &loaded, &rates);
        let sharing = ["shared-public-keys", "extra-shared-keys", "publish", "never-share"];
        let other_sharing = has_changed(in_force, &loaded, &sharing);
        let other_trust = has_changed(in_force, &loaded, &["trusted-public-key"]);
        let mut reloaded = take_over(in_force, loaded);
        // The file may hold another token under the same name.
        let token = TOKEN_FILE.to_owned();
        if access.write_token != self.live.access.get().write_token && !reloaded.applied.contains(&token) {
            reloaded.applied.push(token);
        }
        self.live.access.set(access);

        let config = &in_force.config;
        if other_rates {
            self.live.uploads.set_rates(&upload_limits(config));
        }
        if other_trust {
            self.live.narinfos.set_keys(TrustedKeys::new(config.trusted_public_keys.clone()));
        }
        if other_trust || other_sharing {
            self.live.accepted_keys.set(web::accepted_keys(config));
        }
        if other_sharing {
            self.live.policy.replace(sharing_rules(config));
            self.live.nix.judge_anew();
        }
        self.live.nix.set_hash_rate(config.hash_rate);
        self.log.set_filter(&config.log);
        Ok(reloaded)
    }
}

/// Whether one of these settings was written otherwise.
fn has_changed(in_force: &InForce, loaded: &Loaded, keys: &[&str]) -> bool {
    let pairs = in_force.values.iter().zip(&loaded.values);
    pairs.filter(|(old, _)| keys.contains(&old.setting.key)).any(|(old, new)| old.texts != new.texts)
}

/// Takes what a running node can take, and says what it was and what was left.
fn take_over(in_force: &mut InForce, loaded: Loaded) -> Reloaded {
    let mut reloaded = Reloaded::default();
    // Both are in the order of the table.
    for (old, new) in in_force.values.iter_mut().zip(loaded.values) {
        if old.texts == new.texts {
            continue;
        }
        let key = new.setting.key.to_owned();
        if new.setting.live {
            *old = new;
            reloaded.applied.push(key);
        } else {
            reloaded.needs_restart.push(key);
        }
    }
    let (config, new) = (&mut in_force.config, loaded.config);
    config.peers = new.peers;
    config.trusted_public_keys = new.trusted_public_keys;
    config.shared_public_keys = new.shared_public_keys;
    config.extra_shared_keys = new.extra_shared_keys;
    config.publish = new.publish;
    config.never_share = new.never_share;
    config.upload_rate = new.upload_rate;
    config.upload_rate_lan = new.upload_rate_lan;
    config.upload_rate_public = new.upload_rate_public;
    config.hash_rate = new.hash_rate;
    config.log = new.log;
    config.write_token_file = new.write_token_file;
    config.allowed_hosts = new.allowed_hosts;
    reloaded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, SETTINGS, Surroundings, load};

    fn loaded(key: &'static str, text: &str) -> Loaded {
        let mut values = vec![("state-dir", vec!["/x".into()])];
        values.push((key, vec![text.into()]));
        load(&Flags { config_file: None, values }, &Surroundings::none()).unwrap()
    }

    #[test]
    fn each_setting_is_taken_over_or_named() {
        for setting in SETTINGS.iter().filter(|setting| setting.key != "state-dir") {
            let Loaded { config, values, .. } = loaded("no-mdns", "false");
            let mut in_force = InForce { config, values };
            let before = format!("{:?}", in_force.config);
            let new = loaded(setting.key, setting.example);
            let wanted = format!("{:?}", new.config);
            let reloaded = take_over(&mut in_force, new);
            let after = format!("{:?}", in_force.config);
            let key = vec![setting.key.to_owned()];
            if setting.live {
                assert_eq!((&reloaded.applied, &after), (&key, &wanted), "{}", setting.key);
                let again = take_over(&mut in_force, loaded(setting.key, setting.example));
                assert_eq!(again, Reloaded::default(), "{}", setting.key);
            } else {
                assert_eq!((&reloaded.needs_restart, &after), (&key, &before), "{}", setting.key);
                let again = take_over(&mut in_force, loaded(setting.key, setting.example));
                assert_eq!(again, reloaded, "it is named each time");
            }
        }
    }
}
