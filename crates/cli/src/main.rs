//! criu-rs: checkpoint and restore of Linux process trees.

mod actions;
mod backend;
mod check;
mod convert;
mod cpuinfo;
mod dump;
mod log;
mod page_server;
mod progress;
mod resources;
mod restore;
mod tls;
mod workplace;

use anyhow::{Context, Result};
use backend::CommandLine;
use criu_config::args::{self, Invocation, Request};
use criu_config::{Command, Config, LogFormat, Options, Sources};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use workplace::Workplace;

/// What `--version` prints: first the interface that container runtimes test for, then our own.
const VERSION: &str = concat!("Version: 4.2\ncriu-rs ", env!("CARGO_PKG_VERSION"), "\n");

fn main() -> ExitCode {
    let code = match args::parse(std::env::args_os()) {
        Ok(Request::Help(text)) => print(&text),
        Ok(Request::Version) => print(VERSION),
        Ok(Request::Run(invocation)) => run(&invocation),
        Err(error) => complain(&[error.to_string()]),
    };
    log::flush();
    ExitCode::from(code)
}

fn run(invocation: &Invocation) -> u8 {
    if invocation.command == Command::ConfigCheck {
        return check_file(Path::new(&invocation.operands[0]));
    }
    let command = Some(invocation.command);
    let sources = Sources { command, arguments: invocation.settings.clone(), ..Sources::system() };
    let config = match criu_config::load(&sources) {
        Ok(config) => config,
        Err(error) => return complain(&error.problems),
    };
    let result = match invocation.command {
        Command::ConfigShow => return show(invocation, &config),
        Command::Swrk => serve_client(invocation, &sources, &config.options),
        _ => act(invocation, &sources, &config),
    };
    result.unwrap_or_else(|error| {
        report(&error, &config.options);
        1
    })
}

fn show(invocation: &Invocation, config: &Config) -> u8 {
    config.warnings.iter().for_each(|line| eprintln!("Warning: {line}"));
    print(&match invocation.json {
        true => format!("{:#}\n", config.provenance.to_json()),
        false => config.provenance.to_text(io::stdout().is_terminal()),
    })
}

/// `swrk FD`. Each request brings its own directories and its own log.
fn serve_client(invocation: &Invocation, sources: &Sources, options: &Options) -> Result<u8> {
    log::start(None, options.verbosity, log::Format::Text);
    let fd = invocation.operands.first().and_then(|fd| fd.to_str()?.parse().ok());
    let fd = fd.context("swrk needs the number of an inherited socket")?;
    Ok(if criu_rpc::swrk(fd, sources, &CommandLine)? { 0 } else { 1 })
}

fn act(invocation: &Invocation, sources: &Sources, config: &Config) -> Result<u8> {
    let options = &config.options;
    // First: these numbers are the caller's, before one is ours.
    let closed = options.close.iter().map(|fd| (fd, nix::unistd::close(*fd))).collect::<Vec<_>>();
    let place = Workplace::open(options)?;
    open_log(options, &place)?;
    for (fd, errno) in closed.into_iter().filter_map(|(fd, closed)| Some((fd, closed.err()?))) {
        tracing::warn!("--close {fd}: {}", errno.desc());
    }
    config.log_lines().iter().for_each(|line| tracing::info!("config: {line}"));
    config.warnings.iter().for_each(|line| tracing::warn!("config: {line}"));
    match invocation.command {
        Command::Dump => dump::run(options, &place),
        Command::PreDump => dump::run_ahead(options, &place),
        Command::Restore => restore::run(options, &place, &invocation.operands),
        Command::PageServer => page_server::run(options, &place),
        Command::Dedup => actions::dedup(&place),
        Command::Check => check::run(options),
        Command::CpuinfoDump => cpuinfo::dump(&place),
        Command::CpuinfoCheck => cpuinfo::check(options, &place),
        Command::Service => match criu_rpc::service(options, sources, &CommandLine)? {},
        Command::Exec => anyhow::bail!("`exec` is deprecated and not there"),
        Command::Show => {
            anyhow::bail!("`show` is deprecated and not there; `crit show FILE` prints an image")
        }
        other => anyhow::bail!("the command `{other}` is not supported yet"),
    }
}

/// Starts the log that the options ask for.
fn open_log(options: &Options, place: &Workplace) -> Result<()> {
    let format = match options.log_format {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    };
    let file = options.log_file.as_ref().map(|path| place.create_log(path)).transpose()?;
    log::start(file, options.verbosity, format);
    tracing::info!("criu-rs {}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// Logs an error in one line; with a log file, stderr has it too.
fn report(error: &anyhow::Error, options: &Options) {
    let text = one_line(error);
    tracing::error!("{text}");
    if options.log_file.is_some() || !log::started() {
        complain(&[text]);
    }
}

/// The error and its causes, each said once: some texts contain their cause already.
fn one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        said if said.contains(&cause) => text,
        said => format!("{said}: {cause}"),
    })
}

fn check_file(path: &Path) -> u8 {
    match criu_config::check_file(path) {
        Ok(settings) => print(&format!("{}: {} options, no error\n", path.display(), settings.len())),
        Err(error) => complain(&error.problems),
    }
}

fn print(text: &str) -> u8 {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => 0,
        Err(_) => 1, // a closed pipe: nobody reads on
    }
}

fn complain(problems: &[impl ToString]) -> u8 {
    for problem in problems {
        eprintln!("Error: {}", problem.to_string());
    }
    1
}
