//! Prints what the registry generates: `options`, `man`, or the completions of a shell such as `bash`.

use criu_config::args::{docs, help};

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    match what.as_str() {
        "options" => print!("{}", docs::options_markdown()),
        "man" => print!("{}", docs::man_page().expect("in memory")),
        shell => match help::completions(shell, "criu-rs") {
            Some(script) => print!("{script}"),
            None => eprintln!("usage: docs options|man|bash|zsh|fish"),
        },
    }
}
