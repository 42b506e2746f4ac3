//! Profiles of security modules (AppArmor, SELinux): recorded, and on restore accepted where criu-rs itself
//! runs under the same, since they are inherited.

use crate::error::Error;
use criu_images::proto::CredsEntry;
use criu_kernel::proc::ProcDir;
use std::sync::LazyLock;

/// criu-rs's own profile; `None` as long as no module gives one.
static OWN: LazyLock<Option<String>> = LazyLock::new(|| ProcDir::current().ok().and_then(|dir| read(&dir)));

fn read(dir: &ProcDir) -> Option<String> {
    profile(&dir.read_string("attr/current").ok()?)
}

/// The name without mode: `docker-default (enforce)` is `docker-default`. Unconfined is no profile.
fn profile(text: &str) -> Option<String> {
    let text = text.trim_end_matches(['\0', '\n']);
    let name = text.split_once(" (").map_or(text, |(name, _)| name);
    (!name.is_empty() && name != "unconfined").then(|| name.to_owned())
}

/// Records the profile of a frozen thread.
///
/// # Errors
/// None so far; a module that cannot be asked gives no profile.
pub fn fill(dir: &ProcDir, creds: &mut CredsEntry) -> Result<(), Error> {
    /// Whether any module answers at all: spares a file per thread.
    static ACTIVE: LazyLock<bool> =
        LazyLock::new(|| ProcDir::current().is_ok_and(|dir| dir.read("attr/current").is_ok()));
    if *ACTIVE {
        creds.lsm_profile = read(dir);
    }
    Ok(())
}

/// Checks that a thread with these credentials will have its profile.
///
/// # Errors
/// When it had one that criu-rs does not run under.
pub fn check(creds: &CredsEntry) -> Result<(), Error> {
    let set = |profile: &Option<String>| profile.as_ref().filter(|profile| !profile.is_empty()).cloned();
    if let Some(profile) = set(&creds.lsm_sockcreate) {
        return Err(Error::Unsupported(format!("label {profile} for new sockets")));
    }
    match set(&creds.lsm_profile) {
        Some(profile) if OWN.as_ref() != Some(&profile) => {
            Err(Error::Unsupported(format!("security profile {profile}; start criu-rs under it")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_lose_their_mode() {
        assert_eq!(profile("docker-default (enforce)\n").as_deref(), Some("docker-default"));
        assert_eq!(profile("system_u:system_r:t:s0\0").as_deref(), Some("system_u:system_r:t:s0"));
        assert_eq!(profile("unconfined\n"), None);
        assert_eq!(profile(""), None);
    }

    #[test]
    fn foreign_profiles_are_refused_by_name() {
        let creds = CredsEntry { lsm_profile: Some("no-such".into()), ..Default::default() };
        assert!(check(&creds).unwrap_err().to_string().contains("no-such"));
        assert!(check(&CredsEntry::default()).is_ok());
    }
}
