//! Short options with an argument stuck to them that may be left out: `-v4`, `-x123`.

use std::ffi::OsString;

use crate::registry::{Arity, OPTIONS};

/// Rewrites `-v4` to `--verbosity=4`, `-sRv4` to `-sR --verbosity=4` and `-x7,8` to `--ext-unix-sk=7,8`, up to
/// a `--`. `-vvv` stays three times `-v`. `-verbosity=0`, which getopt takes for `-v` with a strange argument, is
/// `--verbosity=0`.
pub(super) fn normalise(args: Vec<OsString>) -> Vec<OsString> {
    let mut done = Vec::with_capacity(args.len());
    let mut options = true;
    for arg in args {
        options &= arg != "--";
        match arg.to_str().filter(|_| options).and_then(split) {
            Some(parts) => done.extend(parts.into_iter().map(OsString::from)),
            None => done.push(arg),
        }
    }
    done
}

fn split(arg: &str) -> Option<Vec<String>> {
    let cluster = arg.strip_prefix('-').filter(|cluster| !cluster.starts_with('-'))?;
    let name = cluster.split_once('=').map_or(cluster, |(name, _)| name);
    if OPTIONS.iter().any(|option| option.name == name && option.short.is_some_and(|s| name.starts_with(s))) {
        return Some(vec![format!("--{cluster}")]);
    }
    for (at, letter) in cluster.char_indices() {
        let option = OPTIONS.iter().find(|option| option.short == Some(letter))?;
        let rest = &cluster[at + letter.len_utf8()..];
        match option.arity() {
            Arity::None => {}
            Arity::Required => return None,
            Arity::Optional if rest.starts_with(|c: char| c.is_ascii_digit()) => {
                let long = format!("--{}={rest}", option.name);
                let before = (at > 0).then(|| format!("-{}", &cluster[..at]));
                return Some(before.into_iter().chain([long]).collect());
            }
            Arity::Optional => {}
        }
    }
    None
}
