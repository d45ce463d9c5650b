//! The decision.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use p2p_cache_discovery::Scope;
use p2p_cache_protocol::{Compression, NarInfo, PublicKey, StoreHash, TrustedKeys};

use super::names::{Name, PublicNames};
use super::patterns::NamePattern;
use super::published::PublishedPath;
use super::share::Share;
use super::verdicts::Verdicts;

/// How the name of a store derivation ends.
const DERIVATION_SUFFIX: &str = ".drv";

/// What the owner has said. The default shares nothing that was not published by hand.
#[derive(Debug, Clone, Default)]
pub struct SharingRules {
    /// Who is served at all.
    pub share: Share,
    /// Keys of which one signature makes a store path public.
    pub public_keys: Vec<PublicKey>,
    /// Store paths that are public without a signature.
    pub publish: Vec<PublishedPath>,
    /// Names that never leave the machine, whatever else is said of them.
    pub never: Vec<NamePattern>,
}

/// What is asked about: a store path, or a blob with every store path that is known to have it as its NAR.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    paths: &'a [NarInfo],
    published: bool,
}

impl<'a> Subject<'a> {
    /// A store path.
    #[must_use]
    pub fn path(narinfo: &'a NarInfo) -> Self {
        Self { paths: std::slice::from_ref(narinfo), published: false }
    }

    /// A blob. `paths` are the narinfos with its NarHash and NarSize, `published` says that the owner put it by hand.
    #[must_use]
    pub fn blob(paths: &'a [NarInfo], published: bool) -> Self {
        Self { paths, published }
    }
}

/// Decides what may leave the machine. In this order:
///
/// 1. `share` bounds how far anything goes;
/// 2. what an excluded name has never leaves, nor does a blob that an excluded path has in common with others;
/// 3. what the owner published may leave;
/// 4. derivations may not: they say how a machine is configured;
/// 5. what a shared key has signed may. A content address is no signature: it tells that a path is right, not that it
///    is public.
///
/// Everything else is private.
#[derive(Debug)]
pub struct SharingPolicy {
    share: Share,
    /// Replaced as a whole when the owner says otherwise.
    rules: RwLock<Arc<Rules>>,
    names: PublicNames,
}

/// What can be said anew while the node runs.
#[derive(Debug)]
struct Rules {
    public_keys: TrustedKeys,
    published: HashSet<StoreHash>,
    never: Vec<NamePattern>,
    /// Under these keys.
    verdicts: Verdicts,
}

impl Default for SharingPolicy {
    fn default() -> Self {
        Self::new(SharingRules::default())
    }
}

impl SharingPolicy {
    /// The policy of these rules.
    #[must_use]
    pub fn new(rules: SharingRules) -> Self {
        let share = rules.share;
        Self { share, rules: RwLock::new(Arc::new(Rules::new(rules))), names: PublicNames::default() }
    }

    /// Other keys, published paths and excluded names from now on; who is served at all stays what it was. What became
    /// private is refused at once, what became public is found when everything has been listed again.
    pub fn replace(&self, rules: SharingRules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Rules::new(rules));
        self.names.are_outdated();
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether anybody met at `scope` is served at all.
    #[must_use]
    pub fn serves(&self, scope: Scope) -> bool {
        match (self.share, scope) {
            (Share::None, Scope::Lan | Scope::Public) | (Share::Lan, Scope::Public) => false,
            (Share::Lan, Scope::Lan) | (Share::Public, Scope::Lan | Scope::Public) => true,
        }
    }

    /// Whether `subject` may be given to, or admitted to, somebody met at `scope`. Takes some microseconds, and some
    /// tens of them when signatures are seen for the first time.
    #[must_use]
    pub fn may_share(&self, subject: &Subject<'_>, scope: Scope) -> bool {
        // One look at the rules: those that come meanwhile are for the next question.
        let rules = self.rules();
        self.serves(scope)
            && !subject.paths.iter().any(|path| rules.excludes(path))
            && (subject.published || subject.paths.iter().any(|path| rules.is_public(path)))
    }

    /// Notes the names of something that has come; of what is private nothing is noted.
    pub fn note(&self, subject: &Subject<'_>, names: impl IntoIterator<Item = Name>) {
        if self.may_share(subject, Scope::Lan) {
            self.names.add(names);
        }
    }

    /// Whether there can be anything with this name that may be shared. Whoever answers others asks this before looking.
    #[must_use]
    pub fn may_know(&self, name: impl Into<Name>) -> bool {
        self.names.may_have(name.into())
    }

    /// The names of all that may be shared.
    #[must_use]
    pub fn names(&self) -> &PublicNames {
        &self.names
    }

    /// What may be said about a path that may be shared. What the origin's narinfo says beyond the signed facts may be
    /// private: its address, tokens in it, fields of its own. So may be what signatures tell: whose private caches
    /// know the path. The NAR that we offer is the plain one.
    #[must_use]
    pub fn public_part(&self, mut narinfo: NarInfo) -> NarInfo {
        // On a path that the owner published by name they are what its receivers believe it by.
        let rules = self.rules();
        if !rules.is_published(&narinfo) {
            let shared = |name: &str| rules.public_keys.iter().any(|key| key.name() == name);
            narinfo.signatures.retain(|signature| shared(signature.key_name()));
        }
        NarInfo {
            url: format!("nar/{}-{}.nar", narinfo.store_path.hash(), narinfo.nar_hash.to_nix32()),
            compression: Compression::None,
            file_hash: Some(narinfo.nar_hash),
            file_size: Some(narinfo.nar_size),
            unknown: Vec::new(),
            ..narinfo
        }
    }

    /// Whether a path has a name that never leaves the machine; neither does what has the same NAR.
    #[must_use]
    pub fn excludes(&self, narinfo: &NarInfo) -> bool {
        self.rules().excludes(narinfo)
    }

    #[cfg(test)]
    pub(super) fn remembered_verdicts(&self) -> usize {
        self.rules().verdicts.len()
    }
}

impl Rules {
    fn new(rules: SharingRules) -> Self {
        Self {
            public_keys: TrustedKeys::new(rules.public_keys),
            published: rules.publish.iter().map(PublishedPath::hash).collect(),
            never: rules.never,
            verdicts: Verdicts::default(),
        }
    }

    fn excludes(&self, narinfo: &NarInfo) -> bool {
        self.never.iter().any(|pattern| pattern.matches(narinfo.store_path.name()))
    }

    fn is_published(&self, narinfo: &NarInfo) -> bool {
        self.published.contains(&narinfo.store_path.hash())
    }

    fn is_public(&self, narinfo: &NarInfo) -> bool {
        self.is_published(narinfo)
            || (!narinfo.store_path.name().ends_with(DERIVATION_SUFFIX)
                && self.verdicts.is_signed(narinfo, &self.public_keys))
    }
}
