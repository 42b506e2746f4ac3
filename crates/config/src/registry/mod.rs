//! The one table of options: everything else (file keys, environment names, arguments, RPC mapping, help,
//! man page, reference page) is derived from it.

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
