//! The one table of options: everything else (file keys, environment names, arguments, RPC mapping, help,
//! man page, reference page) is derived from it.

mod details;
mod entry;
mod nearest;
mod table;

pub use entry::{Arity, Choice, Group, Item, Kind, Opt, Support};
pub use nearest::{nearest, nearest_in};
pub use table::OPTIONS;

/// The option of this exact name.
pub fn find(name: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|opt| opt.name == name)
}

/// The option that a key names, and whether the key is its `no-` form.
pub fn find_key(key: &str) -> Option<(&'static Opt, bool)> {
    if let Some(opt) = find(key) {
        return Some((opt, false));
    }
    find(key.strip_prefix("no-")?).filter(|opt| opt.negatable).map(|opt| (opt, true))
}

/// The option that an environment variable such as `CRIU_TCP_ESTABLISHED` names, and whether in its `no-` form.
pub fn find_variable(variable: &str) -> Option<(&'static Opt, bool)> {
    let key = variable.strip_prefix("CRIU_")?;
    if key.chars().any(|c| c.is_ascii_lowercase()) {
        return None;
    }
    find_key(&key.to_ascii_lowercase().replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_belong_to_options() {
        for (name, _) in details::DETAILS {
            assert!(find(name).is_some_and(|option| option.detail().is_some()), "{name}");
        }
    }

    #[test]
    fn keys_and_variables() {
        assert_eq!(
            find_key("no-tcp-close").map(|(option, off)| (option.name, off)),
            Some(("tcp-close", true))
        );
        assert!(find_key("no-tree").is_none());
        let found = find_variable("CRIU_NO_DEFAULT_CONFIG").map(|(option, off)| (option.name, off));
        assert_eq!(found, Some(("no-default-config", false)));
        assert!(find_variable("CRIU_tree").is_none());
        assert_eq!(nearest("tcp_establishd").as_deref(), Some("tcp-established"));
        assert_eq!(nearest("xyzzy"), None);
    }
}
