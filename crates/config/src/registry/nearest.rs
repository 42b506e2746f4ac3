//! The nearest known key, for error messages.

use super::OPTIONS;

/// The known key (with `no-` forms) that looks most like `key`, if one is near enough to be meant.
pub fn nearest(key: &str) -> Option<String> {
    let negated = OPTIONS.iter().filter(|opt| opt.negatable).map(|opt| format!("no-{}", opt.name));
    let names = OPTIONS.iter().map(|opt| opt.name.to_owned());
    nearest_in(key, names.chain(negated))
}

/// The candidate that looks most like `word`, if one is near enough to be meant.
pub fn nearest_in(word: &str, candidates: impl IntoIterator<Item = impl Into<String>>) -> Option<String> {
    // Comparing is quadratic in the length, and no key is longer than this.
    let word: String = word.chars().take(40).collect::<String>().to_ascii_lowercase().replace('_', "-");
    let score = |candidate: &str| {
        let near = strsim::jaro_winkler(&word, candidate);
        let prefix = !word.is_empty() && candidate.starts_with(&word);
        if prefix { near.max(0.9) } else { near }
    };
    candidates
        .into_iter()
        .map(|candidate| {
            let candidate = candidate.into();
            (score(&candidate), candidate)
        })
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
