//! What can go wrong while a process is seized, infected, run or cured.

use nix::errno::Errno;

/// Failure of an operation on a target.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such process.
    #[error("pid {pid}: no such process; check the number given with --tree")]
    NoProcess {
        /// The process.
        pid: i32,
    },
    /// The target is this process itself.
    #[error(
        "The criu itself is within dumped tree: pid {pid} is criu-rs itself; name another process with --tree"
    )]
    Oneself {
        /// The process.
        pid: i32,
    },
    /// A kernel thread has no memory to dump.
    #[error("pid {pid} is a kernel thread, which cannot be dumped; name a user process with --tree")]
    KernelThread {
        /// The process.
        pid: i32,
    },
    /// Another tracer holds the target.
    #[error("pid {pid} is traced by pid {tracer} ({name}); end that debugger or tracer first")]
    Traced {
        /// The process.
        pid: i32,
        /// Its tracer.
        tracer: i32,
        /// The tracer's name.
        name: String,
    },
    /// ptrace refused.
    #[error(
        "pid {pid}: no permission to trace it ({errno}); run as root or with CAP_SYS_PTRACE and CAP_CHECKPOINT_RESTORE"
    )]
    Permission {
        /// The process.
        pid: i32,
        /// The system's word.
        errno: Errno,
    },
    /// The target ended while it was worked on.
    #[error("pid {pid} ended while it was being dumped")]
    Died {
        /// The process or thread.
        pid: i32,
    },
    /// A 32-bit task.
    #[error("pid {pid} runs in 32-bit mode, which is not supported yet")]
    Compat {
        /// The process.
        pid: i32,
    },
    /// No `syscall` instruction found.
    #[error("pid {pid} has no vDSO and stands outside of a system call: no way to run code in it")]
    NoEntry {
        /// The process.
        pid: i32,
    },
    /// A system call of ours failed.
    #[error("pid {pid}: {call}: {errno}")]
    System {
        /// The process or thread.
        pid: i32,
        /// The failing call.
        call: &'static str,
        /// The system's word.
        errno: Errno,
    },
    /// A system call issued on the target's behalf failed.
    #[error("pid {pid}: {call} inside of the target: {errno}")]
    Inside {
        /// The process or thread.
        pid: i32,
        /// The failing call.
        call: &'static str,
        /// The system's word.
        errno: Errno,
    },
    /// A thread did not stop when it was told to, and the caller would not wait longer.
    #[error("pid {pid} does not stop: it is in a system call that nothing interrupts")]
    Restless {
        /// The process or thread.
        pid: i32,
    },
    /// The target does not react.
    #[error("pid {pid} did not {what} within {seconds} s; dump again when the machine has less to do")]
    Timeout {
        /// The process or thread.
        pid: i32,
        /// What was expected of it.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// /proc could not be read.
    #[error(transparent)]
    Proc(#[from] criu_kernel::ProcError),
}

impl Error {
    pub(crate) fn system(pid: nix::unistd::Pid, call: &'static str) -> impl Fn(Errno) -> Error {
        move |errno| match errno {
            Errno::ESRCH => Error::Died { pid: pid.as_raw() },
            errno => Error::System { pid: pid.as_raw(), call, errno },
        }
    }
}
