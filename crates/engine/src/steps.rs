//! Steps of a script in words, as strace(1) would print them.

use crate::Error;
use criu_script::{Arg, Script, Step, wire};
use syscalls::Sysno;

/// The step with its arguments: `mmap(0x7f0000000000, 0x1000, …)`.
pub(crate) fn describe(step: &Step) -> String {
    let name = match step.op {
        wire::OP_SYSCALL | wire::OP_CLONE => match Sysno::new(step.nr as usize) {
            Some(known) => known.name().to_owned(),
            None => format!("syscall_{}", step.nr),
        },
        wire::OP_ARRIVE => "arrive".into(),
        wire::OP_AWAIT => "await".into(),
        wire::OP_COPY => "copy".into(),
        other => format!("op_{other}"),
    };
    let used = step.args.iter().rposition(|arg| *arg != Arg::Value(0)).map_or(0, |last| last + 1);
    let args: Vec<String> = step.args[..used].iter().map(argument).collect();
    format!("{name}({})", args.join(", "))
}

fn argument(arg: &Arg) -> String {
    match *arg {
        Arg::Value(value) if (value as i64) < 0 && value as i64 >= -4096 => (value as i64).to_string(),
        Arg::Value(value) if value < 4096 => value.to_string(),
        Arg::Value(value) => format!("{value:#x}"),
        Arg::Data(data) => format!("[{} bytes]", data.len()),
        Arg::Ret(step) => format!("result of step {}", step.index()),
    }
}

/// The error for a step that failed its check.
pub(crate) fn failure(pid: i32, script: &Script, step: usize, ret: i64) -> Error {
    let step = &script.steps()[step];
    let errno = match ret {
        -4095..=-1 => nix::errno::Errno::from_raw(-ret as i32).to_string(),
        _ => format!("unexpected result {ret}"),
    };
    Error::Step { what: step.what, pid, call: describe(step), errno }
}
