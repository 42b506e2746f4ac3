//! The fixtures of the live tests, and the parts of the sandbox that they run in.

use anyhow::{Result, bail};
use criu_testkit::{Stage, fixtures, inside};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["run", name, folder, ..] => run(name, folder, &arguments[3..]),
        ["list"] => {
            fixtures::ALL.iter().for_each(|fixture| println!("{:18}{}", fixture.name, fixture.about));
            Ok(())
        }
        ["init"] => inside::init(),
        ["enter", init, ..] => inside::enter(init, &arguments[2..]),
        ["start", init, output, ..] => inside::start(init, output, &arguments[3..]),
        ["terminal", status, screen, ..] => inside::terminal(status, screen, &arguments[3..]),
        ["measure", file, ..] => inside::measure(file, &arguments[2..]),
        ["traces"] => inside::traces(),
        ["trace", pid, said] => inside::trace(pid, said),
        ["vfork", end, over] => inside::vfork(end, over),
        _ => bail!("usage: criu-fixture run NAME FOLDER [ARGUMENT…] | list"),
    }
}

fn run(name: &str, folder: &str, arguments: &[String]) -> Result<()> {
    let Some(fixture) = fixtures::ALL.iter().find(|fixture| fixture.name == name) else {
        bail!("no fixture {name}; criu-fixture list shows them");
    };
    let stage = Stage::new(folder, arguments)?;
    let result = (fixture.run)(&stage);
    stage.verdict(result)
}
