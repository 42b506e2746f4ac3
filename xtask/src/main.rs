//! `cargo xtask test | demo | bench | tidy | install`
#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod demo;
mod install;
mod test;
mod tidy;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask TASK

  test                 tidy, then every test that this machine allows; says what it leaves out and why
  demo                 the founding story, live: a TCP client on a terminal is dumped and restored
  bench [NAME…]        dump, restore and frozen time; beside $CRIU_REFERENCE where given
  tidy                 the floor table of ARCHITECTURE.md and the size of source files
  install [--as-criu] [--prefix DIR]
                       binary, man page and completions below DIR (/usr/local), itself below $DESTDIR;
                       also under the name criu
";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["test"] => test::run(),
        ["demo"] => demo::run(),
        ["bench", ref rows @ ..] => bench::run(rows),
        ["tidy"] => tidy::run(),
        ["install", ref words @ ..] => install::run(words),
        // The two programs of the demo.
        ["demo-server", port] => demo::programs::server(port),
        ["demo-client", port] => demo::programs::client(port),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => bail!("no such task: {}\n{USAGE}", words.join(" ")),
    }
}
