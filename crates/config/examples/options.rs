//! Parses a command line and prints every option in effect with the place it came from.
//!
//! `cargo run -p criu-config --example options -- dump -t 1 -v4 --leave-run`

use std::process::ExitCode;

use criu_config::{Sources, args, load};

fn main() -> ExitCode {
    match args::parse(std::env::args_os()) {
        Ok(args::Request::Help(text)) => print!("{text}"),
        Ok(args::Request::Version) => println!("Version: 4.2"),
        Ok(args::Request::Run(invocation)) => {
            let command = Some(invocation.command);
            match load(&Sources { command, arguments: invocation.settings, ..Sources::system() }) {
                Ok(config) => print!("{}", config.provenance.to_text(false)),
                Err(error) => {
                    eprintln!("{error}");
                    return ExitCode::FAILURE;
                }
            }
        }
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
