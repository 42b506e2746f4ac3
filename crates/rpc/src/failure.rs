//! What a client is told when its request fails.

use criu_engine::Error as Engine;
use nix::errno::Errno;
use std::error::Error as StdError;
use std::io;

/// A failed request: the one line that names the cause, and a number for programs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// `cr_errno`, an errno(3) that is never 0.
    pub errno: i32,
    /// `cr_errmsg`: one line.
    pub message: String,
}

impl Failure {
    /// A failure for which no system call is to blame. Its number is ECANCELED: the request was given up for
    /// the reason in `message`.
    pub fn new(message: impl Into<String>) -> Self {
        let message: String = message.into();
        Failure { errno: libc::ECANCELED, message: message.trim_end().replace('\n', "; ") }
    }

    /// The same with another number. 0 changes nothing.
    #[must_use]
    pub fn with_errno(mut self, errno: i32) -> Self {
        if errno != 0 {
            self.errno = errno;
        }
        self
    }

    /// A function that is not there: ENOTSUP.
    pub fn not_supported(what: &str) -> Self {
        Failure::new(format!("{what} is not supported yet")).with_errno(libc::ENOTSUP)
    }

    /// A request that makes no sense: EBADRQC.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Failure::new(message).with_errno(libc::EBADRQC)
    }

    /// A message, and the number of the first system error in the chain of causes below `error`.
    pub fn because(message: impl Into<String>, error: &(dyn StdError + 'static)) -> Self {
        Failure::new(message).with_errno(system_errno(error).unwrap_or(0))
    }
}

fn system_errno(error: &(dyn StdError + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return Some(failure.errno);
        }
        if let Some(errno) = error.downcast_ref::<Errno>() {
            return Some(*errno as i32);
        }
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(errno);
        }
        next = error.source();
    }
    None
}

impl From<Engine> for Failure {
    fn from(error: Engine) -> Self {
        let errno = match &error {
            Engine::PidTaken { .. } => libc::EEXIST,
            Engine::Namespace { .. } => libc::ENOTSUP,
            Engine::Incomplete => libc::ENOENT,
            Engine::Timeout { .. } => libc::ETIMEDOUT,
            Engine::Cancelled => libc::EINTR,
            other => system_errno(other).unwrap_or(0),
        };
        Failure::new(error.to_string()).with_errno(errno)
    }
}

impl From<criu_config::Error> for Failure {
    fn from(error: criu_config::Error) -> Self {
        Failure::bad_request(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_that_of_the_cause() {
        let source = io::Error::from_raw_os_error(libc::ENOSPC);
        let failure = Failure::from(Engine::System { call: "write", source });
        assert_eq!(failure.errno, libc::ENOSPC);
        assert!(failure.message.starts_with("write: "), "{failure}");
    }

    #[test]
    fn it_is_one_line_and_never_number_zero() {
        let failure = Failure::new("first\nsecond\n").with_errno(0);
        assert_eq!(failure.message, "first; second");
        assert_ne!(failure.errno, 0);
    }
}
